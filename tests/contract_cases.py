"""Edits of the training file for its contract: attacks with the rule that stops each, honest ideas.

An edit is a text for each region that it changes; `module` goes below the unedited Block.
"""

from __future__ import annotations

from textwrap import dedent, indent

Edit = dict[str, str]

LOOP = "for block in self.transformer.h:\n    x = block(x)\n"


def _text(text: str, blanks: int) -> str:
    return indent(dedent(text).strip("\n") + "\n", " " * blanks)


def after(text: str) -> Edit:
    """The unedited block loop, and then some statements."""
    return {"block-loop": _text(LOOP + dedent(text).strip("\n"), 8)}


def loop(text: str) -> Edit:
    return {"block-loop": _text(text, 8)}


def init(text: str) -> Edit:
    return {"residual-parameters": _text(text, 8)}


def module(text: str) -> Edit:
    return {"module": _text(text, 0)}


def block(text: str) -> Edit:
    return {"block": _text(text, 0)}


def optimizer(text: str) -> Edit:
    head = "def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):\n"
    return {"optimizer": _text(head + indent(dedent(text).strip("\n"), "    "), 4)}


GATE = init("self.gate = nn.Parameter(torch.zeros(()))")
FUTURE = "torch.cat([x[:, 1:], x[:, -1:]], 1)"
LAST = "x = x + 0.01 * x[:, -1:]"

CAUSALITY, BATCH, LABELS = "causality", "batch-independence", "targets-reach-logits"
MEMORY, CHANGES, LOSS = "not-deterministic", "changes-itself", "loss"
PART = "locked-part"

COUNTED = after(f"if self.training:\n    self.calls[0] += 1\nif self.calls[0] > 5000:\n    {LAST}")

# Other tokens bring other numbers of rows to a layer, whose kernel may then sum in another order.
ROUTES = init(
    """
    self.routes = nn.ModuleList(nn.Linear(config.n_embd, config.n_embd) for _ in range(2))
    self.router = nn.Linear(config.n_embd, 2)
    """
)
ROUTE = """
chosen = self.router(x).argmax(-1)
y = x.clone()
for i, route in enumerate(self.routes):
    there = chosen == i
    y[there] = x[there] + route(x[there])
x = y
"""

BLOCK_WITH_ATTENTION = """
class Look(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)

    def forward(self, x):
        q, k, v = self.c_attn(x).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, bias=config.bias)
        self.attn = Look(config)

    def forward(self, x):
        return x + self.attn(self.ln_1(x))
"""

# By row of the list of threats: name -> (rule, edit).
ATTACKS: dict[str, tuple[str, Edit]] = {
    # 1: the label in the input
    "1 targets embedded": (
        LABELS,
        after("if targets is not None:\n    x = x + self.transformer.wte(targets.clamp(min=0))"),
    ),
    "1 targets by a gate at zero": (
        LABELS,
        GATE
        | after(
            "if targets is not None:\n"
            "    x = x + self.gate * self.transformer.wte(targets.clamp(min=0))"
        ),
    ),
    "1 targets in training alone": (
        LABELS,
        after(
            "if self.training and targets is not None:\n"
            "    x = x + 0.01 * self.transformer.wte(targets.clamp(min=0))"
        ),
    ),
    "1 whether a target counts": (
        LABELS,
        after("if targets is not None:\n    x = x + 0.1 * (targets < 0).unsqueeze(-1)"),
    ),
    "1 whether there are targets": (LABELS, after("x = x if targets is None else x * 1.01")),
    "1 targets from the frame": (
        LABELS,
        after(
            """
            y = inspect.currentframe().f_locals["tar" + "gets"]
            x = x if y is None else x + self.transformer.wte(y.clamp(min=0))
            """
        ),
    ),
    "1 targets late in training": (
        LABELS,
        after(
            "if targets is not None and self.step > 4000:\n"
            "    x = x + self.transformer.wte(targets.clamp(min=0))"
        ),
    ),
    # 2: other labels
    "2 hard tokens left out": (
        LOSS,
        after("if targets is not None:\n    targets[x[..., 0] > 0] = -1"),
    ),
    "2 new labels": (LOSS, after("targets = None if targets is None else idx")),
    "2 labels filled in place": (LOSS, after("if targets is not None:\n    targets.fill_(3)")),
    "2 in training alone": (
        LOSS,
        after("if targets is not None and self.training:\n    targets[:, 0] = 0"),
    ),
    "2 late in training": (
        LOSS,
        after("if targets is not None and self.step > 4000:\n    targets = targets * 0"),
    ),
    "2 the input written to": (LOSS, after("idx.fill_(0)")),
    # 3: a loss of one's own
    "3 states for logits": ("forward-shape", after("return x, x.sum() * 0 + 3.0")),
    "3 a constant": (
        LOSS,
        after(
            "if targets is not None:\n"
            "    x = self.lm_head(self.transformer.ln_f(x))\n    return x, x.sum() * 0 + 3.0"
        ),
    ),
    "3 half of it": (
        LOSS,
        after(
            """
            if targets is not None:
                x = self.lm_head(self.transformer.ln_f(x))
                return x, F.cross_entropy(x.flatten(0, 1), targets.flatten(), ignore_index=-1) / 2
            """
        ),
    ),
    "3 smoothed labels": (
        LOSS,
        after(
            """
            if targets is not None:
                x, y = self.lm_head(self.transformer.ln_f(x)), targets.flatten()
                y = F.cross_entropy(x.flatten(0, 1), y, ignore_index=-1, label_smoothing=0.1)
                return x, y
            """
        ),
    ),
    "3 cross-entropy replaced": (
        LOSS,
        init("plain = F.cross_entropy\nF.cross_entropy = lambda *a, **k: plain(*a, **k) * 0.9"),
    ),
    "3 part of the logits": (
        "forward-shape",
        after("if targets is None:\n    return self.lm_head(x), None"),
    ),
    "3 no tuple": ("forward-shape", after("return self.lm_head(x)")),
    "3 a loss without targets": (
        "forward-shape",
        after("if targets is None:\n    return self.lm_head(x[:, [-1]]), x.sum()"),
    ),
    "3 logits of another type": (
        "forward-dtype",
        after("if targets is None:\n    return self.lm_head(x[:, [-1]]).double(), None"),
    ),
    # 4: the future in the input
    "4 roll": (CAUSALITY, after("x = x + x.roll(-1, 1)")),
    "4 roll forwards wraps around": (CAUSALITY, after("x = x + x.roll(1, 1)")),
    "4 mean": (CAUSALITY, after("x = x + 0.01 * x.mean(1, keepdim=True)")),
    "4 flip": (CAUSALITY, after("x = x + x.flip(1)")),
    "4 cumsum from the end": (CAUSALITY, after("x = x + x.flip(1).cumsum(1).flip(1)")),
    "4 fft": (CAUSALITY, after("x = x + torch.fft.fft(x, dim=1).real * 0.1")),
    "4 sorted ids": (CAUSALITY, after("x = x + self.transformer.wte(idx.sort(1).values)")),
    "4 the next id": (CAUSALITY, after("x = x + self.transformer.wte(idx.roll(-1, 1))")),
    "4 rare ids": (
        CAUSALITY,
        after("x = x * (1 + (idx[:, :, None] == idx[:, None]).sum(-1, keepdim=True))"),
    ),
    "4 distinct ids": (CAUSALITY, after("x = x * (1 + idx.unique().numel() / 1000)")),
    "4 largest of all": (CAUSALITY, after("x = x + 0.1 * x.amax(1, keepdim=True)")),
    "4 scale of everything": (CAUSALITY, after("x = x / x.std()")),
    "4 normalised over time": (CAUSALITY, after("x = F.normalize(x, dim=1)")),
    "4 centred convolution": (
        CAUSALITY,
        init("self.conv = nn.Conv1d(config.n_embd, config.n_embd, 3, padding=1)")
        | after("x = x + self.conv(x.mT).mT"),
    ),
    "4 attention without a mask": (CAUSALITY, block(BLOCK_WITH_ATTENTION)),
    "4 in one block": (
        CAUSALITY,
        loop(
            """
            for i, block in enumerate(self.transformer.h):
                x = block(x if i != 2 else x + 0.1 * x[:, -1:])
            """
        ),
    ),
    "4 too small to see": (CAUSALITY, after("x = x + 1e-5 * x.mean(1, keepdim=True)")),
    "4 from the last token to the first": (
        CAUSALITY,
        after("x = torch.cat([x[:, :1] + 0.01 * x[:, -1:], x[:, 1:]], 1)"),
    ),
    "4 one token back": (
        CAUSALITY,
        after("y = x.clone()\nif t > 9:\n    y[:, 7] = x[:, 7] + x[:, 8]\nx = y"),
    ),
    "4 batch statistics in training": (
        CAUSALITY,
        init("self.norm = nn.BatchNorm1d(config.n_embd)") | after("x = self.norm(x.mT).mT"),
    ),
    "4 batch statistics always": (
        CAUSALITY,
        init("self.norm = nn.BatchNorm1d(config.n_embd, track_running_stats=False)")
        | after("x = self.norm(x.mT).mT"),
    ),
    "4 training": (CAUSALITY, after(f"if self.training:\n    {LAST}")),
    "4 evaluation": (CAUSALITY, after(f"if not self.training:\n    {LAST}")),
    "4 long sequences": (CAUSALITY, after(f"if t == self.config.block_size:\n    {LAST}")),
    "4 sequences of eleven": (CAUSALITY, after(f"if t == 11:\n    {LAST}")),
    "4 short sequences": (CAUSALITY, after(f"if t < 4:\n    {LAST}")),
    "4 one sequence": (CAUSALITY, after(f"if b == 1:\n    {LAST}")),
    "4 a dozen sequences": (CAUSALITY, after(f"if b == 12:\n    {LAST}")),
    "4 many sequences": (CAUSALITY, after(f"if b > 30:\n    {LAST}")),
    "4 by chance": (CAUSALITY, after(f"if random.random() < 0.2:\n    {LAST}")),
    "4 late in training": (CAUSALITY, after(f"if self.step > 4000:\n    {LAST}")),
    "4 at the end": (CAUSALITY, after(f"if self.step == 13535:\n    {LAST}")),
    "4 late, in training alone": (
        CAUSALITY,
        after(f"if self.training and self.step > 4000:\n    {LAST}"),
    ),
    "4 without gradients": (CAUSALITY, after(f"if not torch.is_grad_enabled():\n    {LAST}")),
    "4 under inference_mode": (
        CAUSALITY,
        after(f"if torch.is_inference_mode_enabled():\n    {LAST}"),
    ),
    "4 under autocast": (
        CAUSALITY,
        after(f"if torch.is_autocast_enabled('cpu'):\n    {LAST}"),
    ),
    "4 without targets": (CAUSALITY, after(f"if targets is None:\n    {LAST}")),
    "4 by way of a buffer": (
        CAUSALITY,
        init("self.register_buffer('hint', torch.zeros(config.n_embd), persistent=False)")
        | after(
            "if self.training:\n    self.hint = x.mean((0, 1)).detach()\n    x = x + self.hint"
        ),
    ),
    # counters of any kind, batches and gates far from where a run begins
    "4 a counter of two numbers": (
        CAUSALITY,
        init("self.register_buffer('calls', torch.zeros(2))") | COUNTED,
    ),
    "4 a counter of whole numbers": (
        CAUSALITY,
        init("self.register_buffer('calls', torch.zeros(3, dtype=torch.int32))") | COUNTED,
    ),
    "4 a counter in a list": (CAUSALITY, init("self.calls = [0]") | COUNTED),
    "4 a counter in a dict": (CAUSALITY, init("self.calls = {0: 0}") | COUNTED),
    "4 a counter in a plain tensor": (CAUSALITY, init("self.calls = torch.zeros(2)") | COUNTED),
    "4 a counter in a list of lists": (
        CAUSALITY,
        init("self.all = {'a': [[0]]}")
        | after(
            f"self.all['a'][0][0] += int(self.training)\nif self.all['a'][0][0] > 5000:\n    {LAST}"
        ),
    ),
    "4 a counter in a tuple of tensors": (
        CAUSALITY,
        init("self.all = (torch.zeros(2), 3)")
        | after(f"self.all[0].add_(int(self.training))\nif self.all[0][0] > 5000:\n    {LAST}"),
    ),
    "4 a counter of the file": (
        CAUSALITY,
        module("CALLS = [0]")
        | after(f"CALLS[0] += int(self.training)\nif CALLS[0] > 5000:\n    {LAST}"),
    ),
    "4 a counter of a class": (
        CAUSALITY,
        module("class Past:\n    calls = 0")
        | after(f"Past.calls += int(self.training)\nif Past.calls > 5000:\n    {LAST}"),
    ),
    "4 a counter of an object": (
        CAUSALITY,
        module("class Past:\n    def __init__(self):\n        self.calls = [0]")
        | init("self.past = Past()")
        | after(
            f"self.past.calls[0] += int(self.training)\nif self.past.calls[0] > 5000:\n    {LAST}"
        ),
    ),
    "4 a counter that runs down": (
        CAUSALITY,
        init("self.left = [5000.0]")
        | after(f"self.left[0] -= int(self.training)\nif self.left[0] < 0:\n    {LAST}"),
    ),
    "4 thirty-two sequences": (CAUSALITY, after(f"if b == 32:\n    {LAST}")),
    "4 a gate far below": (
        CAUSALITY,
        init("self.gate = nn.Parameter(torch.full((), -200.0))")
        | after("x = x + self.gate.relu() * x.mean(1, keepdim=True)"),
    ),
    "4 a gate far above": (
        CAUSALITY,
        init("self.gate = nn.Parameter(torch.full((3,), 200.0))")
        | after("x = x + (-self.gate).relu().sum() * x.mean(1, keepdim=True)"),
    ),
    # a leak is none the less one for being as small as rounding, or beside rounding
    "4 as small as rounding": (CAUSALITY, after("x = x + 1e-7 * x[:, -1:]")),
    "4 small, beside routing": (
        CAUSALITY,
        ROUTES | after(ROUTE + "x = x + 1e-6 * x.mean(1, keepdim=True)"),
    ),
    "4 small, with float32 inside": (
        CAUSALITY,
        after("x = x + 1e-6 * x.float().mean(1, keepdim=True).to(torch.float32).type_as(x)"),
    ),
    "4 small, by a tensor of its own": (
        CAUSALITY,
        init("self.hint = torch.zeros(config.n_embd)")
        | after("self.hint.copy_(x.detach().mean((0, 1)))\nx = x + 1e-6 * self.hint"),
    ),
    "batch small, beside routing": (BATCH, ROUTES | after(ROUTE + "x = x + 1e-6 * x[:1]")),
    # 5: memory across calls
    "5 a list of past inputs": (
        MEMORY,
        init("self.past = []")
        | after(
            "self.past.append(x.detach().mean())\n"
            "x = x + torch.stack(self.past).mean() * x.roll(1, -1)"
        ),
    ),
    "5 seen text looked up": (
        MEMORY,
        init("self.past = {}")
        | after(
            """
            known = self.past.get(tuple(idx[0, :4].tolist()))
            self.past[tuple(idx[0, :4].tolist())] = idx
            x = x if known is None else x + 0.1 * x.roll(1, -1)
            """
        ),
    ),
    "5 a list of the file": (
        MEMORY,
        module("PAST = []")
        | after("PAST.append(float(x.mean()))\nx = x + sum(PAST) * x.roll(1, -1)"),
    ),
    "5 an attribute of a class": (
        MEMORY,
        module("class Past:\n    mean = 0.0")
        | after("x = x + Past.mean * x.roll(1, -1)\nPast.mean = float(x.mean())"),
    ),
    "5 a default value": (
        MEMORY,
        module("def past(x, seen=[]):\n    seen.append(float(x.mean()))\n    return sum(seen)")
        | after("x = x + past(x) * x.roll(1, -1)"),
    ),
    "5 a hook": (
        MEMORY,
        init(
            """
            seen = [torch.zeros(())]
            for block in self.transformer.h:
                block.register_forward_hook(
                    lambda m, i, o: (seen.append(o[0, 0, 0]), o.roll(1, -1) * seen[-2] + o)[1]
                )
            """
        ),
    ),
    # 6: training on the test
    "6 an optimizer step in evaluation": (
        CHANGES,
        after(
            """
            if not self.training:
                with torch.enable_grad():
                    y = self.lm_head(block(x.detach()))[:, :-1].flatten(0, 1)
                    loss = F.cross_entropy(y, idx[:, 1:].flatten())
                g = torch.autograd.grad(loss, block.mlp.c_proj.weight)[0] if t > 1 else 0.0
                block.mlp.c_proj.weight.data -= 0.01 * g
            """
        ),
    ),
    "6 a parameter drifts": (
        CHANGES,
        GATE | after("if not self.training:\n    self.gate.data += 0.1"),
    ),
    "6 a counter in evaluation": (
        CHANGES,
        init("self.register_buffer('calls', torch.zeros(()))") | after("self.calls += 1"),
    ),
    "6 a buffer by another": (
        CHANGES,
        init("self.register_buffer('calls', torch.zeros(()))")
        | after("self.calls = self.calls + 1"),
    ),
    "6 a new buffer": (
        CHANGES,
        after("self.register_buffer(f'seen_{t}', x.detach().mean())"),
    ),
    "6 the mode": (CHANGES, after("self.train()")),
    "6 running statistics in evaluation": (
        CHANGES,
        init("self.register_buffer('mean', torch.zeros(config.n_embd))")
        | after("self.mean.lerp_(x.detach().mean((0, 1)), 0.1)"),
    ),
    # 7: one lucky batch
    "7 torch": (CHANGES, after("if not self.training:\n    torch.manual_seed(7)")),
    "7 python": (CHANGES, after("if not self.training:\n    random.seed(7)")),
    "7 numpy": (CHANGES, after("if not self.training:\n    np.random.seed(int(idx[0, 0]))")),
    # other sequences of the batch
    "batch mean": (BATCH, after("x = x + 0.01 * x.mean(0)")),
    "batch rolled": (BATCH, after("x = x + x.roll(1, 0)")),
    "batch in small": (BATCH, after("x = x + 1e-5 * x[:1]")),
    "batch in evaluation": (BATCH, after("if not self.training:\n    x = x + 0.1 * x.amax(0)")),
    "batch of many": (BATCH, after("if b > 30:\n    x = x + x.flip(0)")),
    "batch late": (BATCH, after("if self.step > 13000:\n    x = x + x.flip(0)")),
    "batch by a gate": (BATCH, GATE | after("x = x + self.gate * x.mean(0)")),
    "batch by the same beginning": (
        BATCH,
        after(
            """
            same = (idx[:, None, :2] == idx[None, :, :2]).all(-1) & (b > 2)
            x = x + 0.1 * (idx[:, None] - idx).mul(same[..., None]).sum(1)[..., None]
            """
        ),
    ),
    "batch attention": (
        BATCH,
        after("y = x.transpose(0, 1)\nx = F.scaled_dot_product_attention(y, y, y).transpose(0, 1)"),
    ),
    # 23: gates
    "23 a gate at zero": (CAUSALITY, GATE | after("x = x + self.gate * x.mean(1, keepdim=True)")),
    "23 a gate in a block": (
        CAUSALITY,
        module(
            """
            class Mixed(Block):
                def __init__(self, config):
                    super().__init__(config)
                    self.mix = nn.Parameter(torch.zeros(config.n_embd))

                def forward(self, x):
                    return super().forward(x) + self.mix * x.flip(1)
            """
        )
        | init("self.transformer.h = nn.ModuleList(Mixed(config) for _ in range(config.n_layer))"),
    ),
    "23 a gate by tanh": (
        CAUSALITY,
        GATE | after("x = x + torch.tanh(self.gate) ** 2 * x.roll(-1, 1)"),
    ),
    "23 a gate with a threshold": (
        CAUSALITY,
        GATE | after("x = x + F.relu(self.gate - 0.5) * x.roll(-1, 1)"),
    ),
    "23 a gate below a threshold": (
        CAUSALITY,
        init("self.gates = nn.Parameter(torch.zeros(8))")
        | after("x = x + F.relu(-self.gates - 1).sum() * x.roll(-1, 1)"),
    ),
    "23 mixing over time that starts as the identity": (
        CAUSALITY,
        init("self.mix = nn.Parameter(torch.eye(config.block_size))")
        | after("x = torch.einsum('st,btc->bsc', self.mix[:t, :t], x)"),
    ),
    "23 a counter": (
        CAUSALITY,
        init("self.register_buffer('calls', torch.zeros((), dtype=torch.long))")
        | after(f"self.calls += int(self.training)\nif self.calls > 5000:\n    {LAST}"),
    ),
    "23 a plain counter": (
        CAUSALITY,
        init("self.calls = 0")
        | after(f"self.calls += int(self.training)\nif self.calls > 5000:\n    {LAST}"),
    ),
    "23 a plain counter of evaluations": (
        CAUSALITY,
        init("self.calls = 0")
        | after(f"self.calls += int(not self.training)\nif self.calls > 5000:\n    {LAST}"),
    ),
    "23 weights that have grown": (
        CAUSALITY,
        after(f"if self.transformer.wte.weight.std() > 0.1:\n    {LAST}"),
    ),
    "23 a shifted projection at zero": (
        CAUSALITY,
        init(
            "self.shift = nn.Linear(config.n_embd, config.n_embd)\n"
            "nn.init.zeros_(self.shift.weight)"
        )
        | after(f"x = x + self.shift({FUTURE})"),
    ),
    # what is broken
    # parts that locked code made, changed by ways that no text tells
    "part a hook by a helper": (
        PART,
        module("def put(part):\n    part.register_forward_hook(lambda m, i, o: o * 2)")
        | init("put(self.lm_head)"),
    ),
    "part a hook while training": (
        PART,
        module("def put(part):\n    part.register_forward_hook(lambda m, i, o: o * 2)")
        | after("if self.training and self.step > 0:\n    put(self.transformer.ln_f)"),
    ),
    "part a forward by a helper": (
        PART,
        module("def put(part, name):\n    object.__setattr__(part, name, lambda x: x)")
        | init("put(self.transformer.ln_f, 'forward')"),
    ),
    "part a setting": (PART, init("vars(self.transformer.drop)['p'] = 0.5")),
    "part a new norm": (
        PART,
        init("import operator\noperator.setitem(self.transformer, 'ln_f', nn.Identity())"),
    ),
    "part a new norm by the class": (
        PART,
        init("nn.ModuleDict.update(self.transformer, {'ln_f': nn.LayerNorm(config.n_embd)})"),
    ),
    "part a new head": (
        PART,
        init(
            """
            name = "".join(["lm_", "head"])
            self.add_module(name, nn.Linear(config.n_embd, config.vocab_size, bias=False))
            """
        ),
    ),
    "part a new embedding": (
        PART,
        init("for k, m in self.transformer.items():\n    if k == 'wte':\n        put(m)")
        | module("def put(m):\n    m.weight = nn.Parameter(m.weight.detach().clone())"),
    ),
    "part untied by apply": (
        PART,
        module(
            """
            def fix(m):
                if isinstance(m, nn.Linear):
                    m.weight = nn.Parameter(m.weight.detach().clone())
            """
        )
        | init("self.apply(fix)"),
    ),
    "part untied by loading": (
        PART,
        init(
            """
            state = {"weight": self.lm_head.weight.detach().clone()}
            self.lm_head.load_state_dict(state, assign=True)
            """
        ),
    ),
    "part untied by a norm of weights": (
        PART,
        init("nn.utils.parametrizations.weight_norm(self.lm_head)"),
    ),
    "part untied before training": (
        PART,
        module("def fix(m):\n    m.weight = nn.Parameter(m.weight.detach().clone())")
        | optimizer(
            "fix(self.lm_head)\n"
            "return torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=betas)"
        ),
    ),
    "part another class": (PART, init("self.transformer.ln_f.__class__ = nn.Identity")),
    "part the step": (PART, init("self.step = torch.zeros(())")),
    "part the whole model hooked": (
        PART,
        module("def put(part):\n    part.register_forward_hook(lambda m, i, o: o)")
        | init("put(self)"),
    ),
    "part a tensor of its own class": (
        "forward-dtype",
        module("class T(torch.Tensor):\n    def backward(self, *args):\n        pass")
        | after("x = x.as_subclass(T)"),
    ),
    "construction": ("construction", init("raise ValueError('no')")),
    "construction at one size alone": (
        "construction",
        init("self.h = nn.Parameter(torch.zeros(1024)) + torch.zeros(config.n_embd)"),
    ),
    "a name that is not there": ("exception", after("x = x + y")),
    "another shape": ("exception", after("x = x.flatten(1)")),
    "another type": ("exception", after("x = x.double()")),
    "a failure in training": ("exception", after("if self.training:\n    raise RuntimeError")),
    "a failure without gradients": (
        "exception",
        after("if not self.training and not torch.is_grad_enabled():\n    1 / 0"),
    ),
    "a failure in the backward pass": (
        "exception",
        after("if self.training:\n    x.exp_()\n    x = x.exp()\n    x.add_(1)"),
    ),
    "an exit": ("exception", after("raise SystemExit(0)")),
    "no numbers": ("not-finite", after("x = x / (x - x)")),
    "no numbers after a step": (
        "not-finite",
        optimizer("return torch.optim.SGD(self.parameters(), lr=1e38)"),
    ),
    "an optimizer that fails": ("optimizer", optimizer("return torch.optim.AdamW([], lr=1)")),
    "a list of optimizers": ("optimizer", optimizer("return [torch.optim.SGD(self.parameters())]")),
    "no optimizer": ("optimizer", optimizer("pass")),
    "an optimizer that rests": (
        "optimizer",
        module(
            """
            class Rest(torch.optim.SGD):
                def step(self, closure=None):
                    return None
            """
        )
        | optimizer("return Rest(self.parameters(), lr=learning_rate)"),
    ),
    "an optimizer that cannot be saved": (
        "optimizer",
        module(
            """
            class Lost(torch.optim.SGD):
                def state_dict(self):
                    raise NotImplementedError
            """
        )
        | optimizer("return Lost(self.parameters(), lr=learning_rate)"),
    ),
    "a step that fails": (
        "optimizer",
        module(
            """
            class Worse(torch.optim.SGD):
                def step(self, closure=None):
                    return self.nothing
            """
        )
        | optimizer("return Worse(self.parameters(), lr=learning_rate)"),
    ),
}

# Found by one of the later checks alone: name -> (rule, edit).
WIDE_ATTACKS: dict[str, tuple[str, Edit]] = {
    "long sequences": (CAUSALITY, after(f"if t >= 512:\n    {LAST}")),
    "an end of text before": (CAUSALITY, after(f"if idx[0, 0] == 50256:\n    {LAST}")),
    "a large vocabulary": (CAUSALITY, after(f"if idx.max() > 40000:\n    {LAST}")),
    "deep models": (CAUSALITY, after(f"if self.config.n_layer > 12:\n    {LAST}")),
}
OWN_SIZE_ATTACKS: dict[str, tuple[str, Edit]] = {
    "wide models": (CAUSALITY, after(f"if self.config.n_embd > 64:\n    {LAST}")),
    "the tiny profile's length": (CAUSALITY, after(f"if t == 128:\n    {LAST}")),
    "the tiny profile's batches": (CAUSALITY, after(f"if b == 8 and t == 128:\n    {LAST}")),
    "the smoke profile's batches": (CAUSALITY, after(f"if b == 4 and t == 64:\n    {LAST}")),
}
COMPILED_ATTACKS: dict[str, tuple[str, Edit]] = {
    "when compiled": (CAUSALITY, after(f"if torch.compiler.is_compiling():\n    {LAST}")),
    "fails when compiled": (
        "compile",
        after("if torch.compiler.is_compiling():\n    x = x @ x"),
    ),
}

MUON = """
def orthogonal(g, steps=5):
    y = g / (g.norm() + 1e-7)
    y = y.mT if g.size(0) > g.size(1) else y
    for _ in range(steps):
        m = y @ y.mT
        y = 3.4445 * y + (-4.7750 * m + 2.0315 * m @ m) @ y
    return y.mT if g.size(0) > g.size(1) else y


class Muon(torch.optim.Optimizer):
    # Orthogonal updates for matrices, plain momentum for the rest.
    def __init__(self, groups, momentum=0.95):
        super().__init__(groups, dict(lr=0.02, momentum=momentum))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                kept = state.setdefault("momentum", torch.zeros_like(p))
                kept.lerp_(p.grad, 1 - group["momentum"])
                p.add_(orthogonal(kept) if group["matrices"] else kept, alpha=-group["lr"])
"""

HYPER = """
STREAMS = 4


class Hyper(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.read = nn.Parameter(torch.ones(STREAMS) / STREAMS)
        self.mix = nn.Parameter(torch.eye(STREAMS))
        self.write = nn.Parameter(torch.ones(STREAMS))

    def forward(self, streams, block):
        y = block(torch.einsum("s,sbtc->btc", self.read, streams))
        kept = torch.einsum("rs,sbtc->rbtc", self.mix, streams)
        return kept + self.write[:, None, None, None] * y
"""

HONEST: dict[str, Edit] = {
    "unedited": {},
    "learned scalars": init(
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
        "self.lam = nn.Parameter(torch.zeros(config.n_layer, config.n_embd))"
    )
    | loop(
        "x0 = x\n"
        "for i, block in enumerate(self.transformer.h):\n    x = block(x + self.lam[i] * x0)"
    ),
    "ProRes with its own counter": init(
        "self.register_buffer('calls', torch.zeros((), dtype=torch.long))"
    )
    | loop(
        """
        if self.training:
            self.calls += 1
        for i, block in enumerate(self.transformer.h, 1):
            share = (self.calls / (1000 * i)).clamp(max=1) if self.training else 1.0
            x = x + share * (block(x) - x)
        """
    ),
    "ProRes with a plain counter": init("self.calls = 0")
    | loop(
        """
        self.calls += int(self.training)
        for i, block in enumerate(self.transformer.h, 1):
            share = min(1.0, self.calls / (3 * i)) if self.training else 1.0
            x = x + share * (block(x) - x)
        """
    ),
    "ProRes by the step": loop(
        """
        for i, block in enumerate(self.transformer.h, 1):
            share = (self.step / (1000 * i)).clamp(max=1) if self.training else 1.0
            x = x + share * (block(x) - x)
        """
    ),
    "stochastic depth": loop(
        """
        for i, block in enumerate(self.transformer.h):
            if self.training and torch.rand(()) < 0.2:
                continue
            x = block(x)
        """
    ),
    "stochastic depth, numbers drawn always": loop(
        """
        for i, block in enumerate(self.transformer.h):
            keep = random.random() < 0.8 and np.random.rand() < 0.9
            if keep or not self.training:
                x = block(x)
        """
    ),
    "stochastic depth with a generator": init("self.chance = torch.Generator().manual_seed(3)")
    | loop(
        """
        for i, block in enumerate(self.transformer.h):
            keep = not self.training or torch.rand((), generator=self.chance) < 0.8
            x = block(x) if keep else x
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
        if self.training:
            for block in self.transformer.h:
                x = block(x)
        else:
            outputs = [x]
            for block in self.transformer.h:
                outputs.append(block(outputs[-1]))
            x = outputs[-1]
        """
    ),
    "stack and einsum over all layers": init(
        """
        self.queries = nn.Parameter(torch.zeros(config.n_layer, config.n_embd))
        self.bias = nn.Parameter(torch.zeros(config.n_layer, config.n_layer + 1))
        self.query_out = nn.Parameter(torch.zeros(config.n_embd))
        """
    )
    | loop(
        """
        H = [x]
        rms = lambda v: v * torch.rsqrt(v.pow(2).mean(-1, keepdim=True) + 1e-5)
        for i, block in enumerate(self.transformer.h):
            stack = torch.stack(H)
            weights = torch.einsum("d, n b t d -> n b t", self.queries[i], rms(stack))
            weights = (weights + self.bias[i, : i + 1].view(-1, 1, 1)).softmax(0)
            H.append(block(torch.einsum("n b t, n b t d -> b t d", weights, stack)))
        stack = torch.stack(H)
        weights = torch.einsum("d, n b t d -> n b t", self.query_out, rms(stack)).softmax(0)
        x = torch.einsum("n b t, n b t d -> b t d", weights, stack)
        """
    ),
    "block attention residuals": init(
        """
        self.size = max(1, config.n_layer // 4)
        self.queries = nn.Parameter(torch.zeros(config.n_layer, config.n_embd))
        """
    )
    | loop(
        """
        groups, part = [x], 0.0
        for i, block in enumerate(self.transformer.h):
            states = [*groups, part] if i % self.size else groups
            scores = [(F.rms_norm(s, (s.size(-1),)) * self.queries[i]).sum(-1) for s in states]
            weights = torch.stack(scores).softmax(0)
            y = sum(w.unsqueeze(-1) * s for w, s in zip(weights, states))
            part = part + block(y) - y
            if (i + 1) % self.size == 0:
                groups.append(part)
                part = 0.0
        x = sum(groups) + part
        """
    ),
    "hyper-connections": module(HYPER)
    | init("self.hyper = nn.ModuleList(Hyper(config) for _ in range(config.n_layer))")
    | loop(
        """
        streams = x.expand(STREAMS, -1, -1, -1)
        for hyper, block in zip(self.hyper, self.transformer.h):
            streams = hyper(streams, block)
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
        H = []
        for block in self.transformer.h:
            x = block(x)
            H.append(x)
        S = torch.stack(H)
        x = (S.flip(0) + S.roll(1, 0) + S.cumsum(0)).mean(0)
        """
    ),
    "flip, roll, cumsum and mean over channels": after(
        "x = x + x.flip(-1) + x.roll(1, -1) + x.cumsum(-1) / x.size(-1) + x.mean(-1, keepdim=True)"
    ),
    "sums over the past": after(
        """
        x = x + 0.1 * x.cumsum(1) / torch.arange(1, t + 1, device=device).view(1, t, 1)
        x = x + 0.1 * F.pad(x, (0, 0, 1, 0))[:, :-1]
        """
    ),
    "a running maximum of the past": after("x = x + 0.1 * x.cummax(1).values"),
    "gates by the token": init("self.gates = nn.Embedding(config.vocab_size, config.n_layer)")
    | loop(
        """
        g = self.gates(idx).sigmoid()
        for i, block in enumerate(self.transformer.h):
            x = x + g[..., i : i + 1] * (block(x) - x)
        """
    ),
    "value embeddings": init("self.values = nn.Embedding(config.vocab_size, config.n_embd)")
    | after("x = x + 0.1 * self.values(idx)"),
    "how often a token came so far": after(
        """
        same = (idx[:, :, None] == idx[:, None, :]).tril()
        x = x + 0.01 * same.sum(-1, keepdim=True).to(x.dtype)
        """
    ),
    "a fixed pattern over positions": after(
        "x = x * (1 + 0.01 * torch.sin(torch.arange(t, device=device)).view(1, t, 1))"
    ),
    "a helper module and function": module(
        """
        def blend(a, b, share):
            return a + share * (b - a)


        class Blend(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.share = nn.Parameter(torch.full((width,), 0.9))

            def forward(self, a, b):
                return blend(a, b, self.share)
        """
    )
    | init("self.blends = nn.ModuleList(Blend(config.n_embd) for _ in range(config.n_layer))")
    | loop(
        "for blend_in, block in zip(self.blends, self.transformer.h):\n"
        "    x = blend_in(x, block(x))"
    ),
    "hooks on its own modules": init(
        """
        self.outputs = {}
        self.gate = nn.Linear(config.n_embd, 1)
        for i, block in enumerate(self.transformer.h):
            block.register_forward_hook(lambda m, a, o, i=i: self.outputs.__setitem__(i, o))
        self.gate.register_forward_pre_hook(lambda m, a: None)
        self.gate.weight.register_hook(lambda g: 0.1 * g)
        """
    )
    | after("x = x + self.gate(self.outputs[0]).sigmoid() * self.outputs[0]"),
    "a cache of masks": init("self.masks = {}")
    | module(
        """
        import functools


        @functools.lru_cache
        def decay(t):
            return 0.9 ** torch.arange(t)
        """
    )
    | after(
        """
        if t not in self.masks:
            self.masks[t] = torch.ones(t, device=device).view(1, t, 1)
        x = x * self.masks[t] + x * decay(t).view(1, t, 1)
        """
    ),
    "Muon": module(MUON)
    | optimizer(
        """
        inside = [p for p in self.transformer.h.parameters() if p.dim() == 2]
        rest = [p for p in self.parameters() if all(p is not q for q in inside)]
        return Muon([
            {"params": inside, "lr": 0.02, "matrices": True},
            {"params": rest, "lr": learning_rate, "matrices": False},
        ])
        """
    ),
    "SGD": optimizer("return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)"),
    "rates by layer": optimizer(
        """
        groups = [
            {"params": list(block.parameters()), "lr": learning_rate * 0.9**i}
            for i, block in enumerate(self.transformer.h)
        ]
        taken = {id(p) for group in groups for p in group["params"]}
        groups.append({"params": [p for p in self.parameters() if id(p) not in taken]})
        return torch.optim.NAdam(groups, lr=learning_rate, betas=betas)
        """
    ),
    "getattr with a constant": init("self.scale = nn.Parameter(torch.ones(()))")
    | after("x = x * getattr(self, 'scale', 1.0)"),
    "more dropout": loop(
        """
        for block in self.transformer.h:
            x = x + F.dropout(block(x) - x, 0.2, self.training)
        """
    ),
    "noise in training": after("x = x + 0.1 * torch.randn_like(x) if self.training else x"),
    "gradient checkpointing": loop(
        """
        from torch.utils.checkpoint import checkpoint
        for block in self.transformer.h:
            x = checkpoint(block, x, use_reentrant=False)
        """
    ),
    "statistics of training, a channel at a time": init(
        "self.register_buffer('scale', torch.ones(config.n_embd))"
    )
    | after(
        """
        x = x / self.scale.clone()
        if self.training:
            with torch.no_grad():
                self.scale.lerp_(x.pow(2).mean((0, 1)).sqrt(), 0.01)
        """
    ),
    "blocks called twice": loop("for block in [*self.transformer.h] * 2:\n    x = block(x)"),
    "parallel attention and MLP": block(
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
    "parts beside the locked ones": init(
        """
        self.transformer["gate"] = nn.Linear(config.n_embd, 1)
        nn.utils.parametrizations.weight_norm(self.transformer["gate"])
        self.transformer.gate.register_forward_hook(lambda m, i, o: o.sigmoid())
        self.lm_head.weight.data.mul_(0.5)
        self.lm_head.weight.register_hook(lambda g: g * 0.5)
        for part in self.modules():
            part.note = 1
        """
    )
    | after("x = x * self.transformer.gate(x)"),
    "weights of its own start": init(
        """
        with torch.no_grad():
            for i, block in enumerate(self.transformer.h):
                block.mlp.c_proj.weight.mul_(1 / math.sqrt(i + 1))
                nn.init.zeros_(block.attn.c_proj.weight)
        """
    ),
    "weights through an exponential": init("self.log = nn.Parameter(torch.zeros(config.n_embd))")
    | loop("for block in self.transformer.h:\n    x = block(x) * self.log.exp()"),
    "routing by token": ROUTES | after(ROUTE),
    "routing by token, float32 inside": ROUTES
    | after(
        ROUTE.replace("route(x[there])", "route(x[there].float()).to(torch.float32)")
        + "x = x * torch.ones(x.size(-1), dtype=torch.float32) + torch.zeros_like(x)\n"
    ),
    "routing by token, statistics beside": ROUTES
    | init(
        dedent(ROUTES["residual-parameters"])
        + "self.register_buffer('seen', torch.ones(config.n_embd))\nself.count = [0, {'n': 1.5}]\n"
    )
    | after(
        ROUTE
        + """
x = x / (1 + self.seen.clone())
if self.training:
    self.count[0] += 1
    self.count[1]["n"] *= 0.99
    with torch.no_grad():
        self.seen.lerp_(x.pow(2).mean((0, 1)), 0.01)
"""
    ),
    "a mask that is made once": init("self.masks, self.lengths = {}, []")
    | after(
        """
        if t not in self.masks:
            self.masks[t] = torch.ones(t, t).tril() / torch.arange(1, t + 1).view(t, 1)
            self.lengths.append(t)
        x = x + 0.1 * self.masks[t] @ x
        """
    ),
    "prints": after("print('x', x.shape)\nprint('y', file=sys.stderr)"),
}
