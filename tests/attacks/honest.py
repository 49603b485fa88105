"""Edits that must go through the whole path without a finding, and be scored.

One at least for each idea that docs/integrity.md promises to accept; several look like an attack to
a rule that judges operations by their names.
"""

from __future__ import annotations

from attacks.forms import Edit, after, block, extra, init, loop, optimizer, overrides

HONEST: dict[str, Edit] = {
    "unedited": {},
    "plain AdamW": optimizer(
        "return torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=betas)"
    ),
    "learned per-layer scalars": init(
        """
        self.alpha = nn.Parameter(torch.ones(config.n_layer))
        self.beta = nn.Parameter(torch.ones(config.n_layer))
        """
    )
    | loop(
        """
        for i, block in enumerate(self.transformer.h):
            x = self.alpha[i] * x + self.beta[i] * (block(x) - x)
        """
    ),
    "the first embedding blended back": init(
        "self.share = nn.Parameter(torch.zeros(config.n_layer))"
    )
    | loop(
        """
        first = x
        for i, block in enumerate(self.transformer.h):
            x = block(x + self.share[i] * first)
        """
    ),
    "a step counter as a buffer, read in training only": init(
        "self.register_buffer('calls', torch.zeros((), dtype=torch.long))"
    )
    | loop(
        """
        if self.training:
            self.calls += 1
        for i, block in enumerate(self.transformer.h, 1):
            share = (self.calls / (10 * i)).clamp(max=1) if self.training else 1.0
            x = x + share * (block(x) - x)
        """
    ),
    "the step buffer as a schedule": loop(
        """
        share = torch.clamp((self.step + 1) / 20, max=1.0)
        for block in self.transformer.h:
            x = x + share * (block(x) - x)
        """
    ),
    "stochastic depth": loop(
        """
        for block in self.transformer.h:
            if self.training and torch.rand(()) < 0.2:
                continue
            x = block(x)
        """
    ),
    "stochastic depth, a sequence at a time": loop(
        """
        for block in self.transformer.h:
            keep = torch.rand(b, 1, 1, device=device) < 0.8 if self.training else 1.0
            x = x + keep * (block(x) - x)
        """
    ),
    "other code in evaluation": loop(
        """
        outputs = [x]
        for block in self.transformer.h:
            y = block(outputs[-1])
            outputs.append(y if not self.training else y + 0.01 * torch.randn_like(y))
        x = outputs[-1] if self.training else sum(outputs[-2:]) / 2
        """
    ),
    "stack and einsum over layers": init(
        "self.mix = nn.Parameter(torch.zeros(config.n_layer + 1, config.n_layer + 1))"
    )
    | loop(
        """
        states = [x]
        for i, block in enumerate(self.transformer.h):
            weights = self.mix[i, : i + 1].softmax(-1)
            states.append(block(torch.einsum("n, n b t d -> b t d", weights, torch.stack(states))))
        x = torch.einsum("n, n b t d -> b t d", self.mix[-1].softmax(-1), torch.stack(states))
        """
    ),
    "hyper-connections": extra(
        """
        STREAMS = 3


        class Streams(nn.Module):
            def __init__(self, config):
                super().__init__()
                self.read = nn.Parameter(torch.ones(STREAMS) / STREAMS)
                self.mix = nn.Parameter(torch.eye(STREAMS))
                self.write = nn.Parameter(torch.ones(STREAMS))

            def forward(self, streams, block):
                read = torch.einsum("s, s b t c -> b t c", self.read, streams)
                kept = torch.einsum("r s, s b t c -> r b t c", self.mix, streams)
                return kept + self.write[:, None, None, None] * (block(read) - read)
        """
    )
    | init("self.streams = nn.ModuleList(Streams(config) for _ in range(config.n_layer))")
    | loop(
        """
        streams = x.expand(STREAMS, -1, -1, -1)
        for mixed, block in zip(self.streams, self.transformer.h):
            streams = mixed(streams, block)
        x = streams.mean(0)
        """
    ),
    "dense connections": init("self.mix = nn.Parameter(torch.eye(config.n_layer + 1))")
    | loop(
        """
        outputs = [x]
        for i, block in enumerate(self.transformer.h):
            outputs.append(block(sum(w * o for w, o in zip(self.mix[i], outputs))))
        x = outputs[-1]
        """
    ),
    "flip, roll, cumsum and mean over depth": loop(
        """
        states = []
        for block in self.transformer.h:
            x = block(x)
            states.append(x)
        stack = torch.stack(states)
        x = (stack.flip(0) + stack.roll(1, 0) + stack.cumsum(0)).mean(0)
        """
    ),
    "flip, roll, cumsum and mean over channels": after(
        """
        x = x + 0.1 * (x.flip(-1) + x.roll(1, -1) + x.mean(-1, keepdim=True))
        x = x + 0.1 * x.cumsum(-1) / x.size(-1)
        """
    ),
    "sums over the past": after(
        """
        x = x + 0.1 * x.cumsum(1) / torch.arange(1, t + 1, device=device).view(1, t, 1)
        x = x + 0.1 * F.pad(x, (0, 0, 1, 0))[:, :-1]
        """
    ),
    "gates by the token": init("self.gates = nn.Embedding(config.vocab_size, config.n_layer)")
    | loop(
        """
        gates = self.gates(idx).sigmoid()
        for i, block in enumerate(self.transformer.h):
            x = x + gates[..., i : i + 1] * (block(x) - x)
        """
    ),
    "value embeddings": init("self.values = nn.Embedding(config.vocab_size, config.n_embd)")
    | after("x = x + 0.1 * self.values(idx)"),
    "helper modules and functions": extra(
        """
        def blended(a, b, share):
            return a + share * (b - a)


        class Blend(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.share = nn.Parameter(torch.full((width,), 0.9))

            def forward(self, a, b):
                return blended(a, b, self.share)
        """
    )
    | init("self.blends = nn.ModuleList(Blend(config.n_embd) for _ in range(config.n_layer))")
    | loop(
        """
        for blend, block in zip(self.blends, self.transformer.h):
            x = blend(x, block(x))
        """
    ),
    "hooks on its own modules": init(
        """
        self.outputs = {}
        self.gate = nn.Linear(config.n_embd, 1)
        for i, block in enumerate(self.transformer.h):
            block.register_forward_hook(lambda m, a, o, i=i: self.outputs.__setitem__(i, o))
        self.gate.weight.register_hook(lambda g: 0.1 * g)
        """
    )
    | after("x = x + self.gate(self.outputs[0]).sigmoid() * self.outputs[0]"),
    "another optimizer": optimizer(
        "return torch.optim.SGD(self.parameters(), lr=0.3, momentum=0.9)"
    ),
    "an optimizer of its own": extra(
        """
        class Signs(torch.optim.Optimizer):
            def __init__(self, params, lr):
                super().__init__(params, {"lr": lr})

            @torch.no_grad()
            def step(self, closure=None):
                for group in self.param_groups:
                    for p in group["params"]:
                        if p.grad is not None:
                            kept = self.state[p].setdefault("kept", torch.zeros_like(p))
                            kept.lerp_(p.grad, 0.1)
                            p.add_(kept.sign(), alpha=-group["lr"])
        """
    )
    | optimizer("return Signs(self.parameters(), lr=learning_rate / 3)"),
    "getattr with a constant": init("self.scale = nn.Parameter(torch.ones(()))")
    | after("x = x * getattr(self, 'scale', 1.0)"),
    "per-layer learning rates": optimizer(
        """
        groups = [
            {"params": list(block.parameters()), "lr": learning_rate * 0.9**i}
            for i, block in enumerate(self.transformer.h)
        ]
        taken = {id(p) for group in groups for p in group["params"]}
        groups.append({"params": [p for p in self.parameters() if id(p) not in taken]})
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas)
        """
    ),
    "settings": overrides(
        'CONFIG_OVERRIDES = {"learning_rate": 2e-2, "warmup_iters": 5, "grad_clip": 0.5}'
    ),
    "another Block": block(
        """
        class Block(nn.Module):
            def __init__(self, config):
                super().__init__()
                self.ln_1 = LayerNorm(config.n_embd, bias=config.bias)
                self.attn = CausalSelfAttention(config)
                self.mlp = MLP(config)

            def forward(self, x, scale=1.0):
                y = self.ln_1(x)
                return x + scale * (self.attn(y) + self.mlp(y))
        """
    ),
    "parameters tied to each other": init(
        """
        self.one = nn.Parameter(torch.zeros(config.n_embd))
        self.two = self.one
        self.transformer.h[1].mlp.c_fc.weight = self.transformer.h[0].mlp.c_fc.weight
        """
    )
    | after("x = x + self.one * self.two"),
    "a buffer that is not saved": init(
        "self.register_buffer('ramp', torch.arange(config.n_embd) / config.n_embd, "
        "persistent=False)"
    )
    | after("x = x * (1 + 0.1 * self.ramp)"),
}
