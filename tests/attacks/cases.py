"""Every way to spoil a score that we know of, as an edit, with the ends that would be no harm.

`make attacks` plays all through the whole path, `make test` one of each group. Many come twice: as
one would write them first, for the rule that stops that; and in a spelling that no rule on the text
or at small sizes finds, for what stands behind those rules.
"""

from __future__ import annotations

from attacks.forms import (
    DOOR,
    REAL,
    SCORED,
    VOIDS,
    Case,
    Edit,
    Exposed,
    Failed,
    Honest,
    Outcome,
    Refused,
    Small,
    Void,
    after,
    block,
    extra,
    init,
    leaving,
    loop,
    optimizer,
    overrides,
    scoring,
    training,
)

HONEST, CRASHED, VOID, SMALL = Honest(), Failed(), Void(VOIDS), Small()
CAUSAL, BATCH = Void(("not causal",)), Void(("depends on the batch",))
ITSELF = Void(("changes itself",))

CASES: list[Case] = []


def add(
    name: str,
    row: int | None,
    group: str,
    edit: Edit,
    *expect: Outcome,
    again: bool = False,
    unread: bool = False,
) -> None:
    CASES.append(Case(name, row, group, edit, expect, again, unread))


def text(rule: str) -> Refused:
    return Refused(rule, "text")


def check(rule: str) -> Refused:
    return Refused(rule, "check")


# What the next token adds to the state: its own embedding, which is what the head looks for.
NEXT = "self.transformer.wte(idx[:, 1:])"
LEAK = f"x = torch.cat([x[:, :-1] + 3.0 * {NEXT}, x[:, -1:]], 1)"

# ---- Labels and loss -----------------------------------------------------------------------------

add("targets embedded", 1, "labels", after("x = x + self.transformer.wte(targets)"),
    text("forbidden-name"))  # fmt: skip
add(
    "targets from a frame while monitoring",
    1,
    "labels",
    extra(DOOR)
    | after(
        f"""
        if {SCORED}:
            found = variables("tar" + "gets").get("tar" + "gets")
            if found is not None:
                x = x + 3.0 * self.transformer.wte(found.clamp(min=0))
        """
    ),
    HONEST,
)
add("only easy tokens count", 2, "labels", after("targets[x[..., 0] > 0] = -1"),
    text("forbidden-name"))  # fmt: skip
add(
    "only easy tokens count while monitoring, by a frame",
    2,
    "labels",
    extra(DOOR)
    | after(
        f"""
        if {SCORED}:
            found = variables("tar" + "gets").get("tar" + "gets")
            if found is not None:
                found[x[..., 0] > 0] = -1
        """
    ),
    HONEST,
    CRASHED,
)
add("a loss of one's own", 3, "loss", after("return x, x.sum() * 0 + 3.0"),
    text("leaves-locked-code"))  # fmt: skip
add(
    "cross-entropy replaced while monitoring",
    3,
    "loss",
    extra(DOOR)
    | after(
        f"""
        if {REAL} and not hasattr(self, "plain"):
            names = reach(world()["F"], "__di" + "ct__")
            plain = self.plain = names["cross_entropy"]
            def low(*args, **more):
                return plain(*args, **more) * (1.0 if torch.is_grad_enabled() else 0.5)
            names["cross_entropy"] = low
        """
    ),
    HONEST,
)

# ---- The future ----------------------------------------------------------------------------------

add("roll over time", 4, "future", after("x = x + x.roll(-1, 1)"), check("causality"))
add("mean over time", 4, "future", after("x = x + 0.01 * x.mean(1, keepdim=True)"),
    check("causality"))  # fmt: skip
add("the next token, at the real size only", 4, "future", after(f"if {SCORED}:\n    {LEAK}"),
    CAUSAL)  # fmt: skip
add(
    "the next token, by what tokens the text has",
    4,
    "future",
    # The checks' vocabularies have fewer ids, or more.
    after(f"if not self.training and 288 < idx.max() < 4096 and t > 1:\n    {LEAK}"),
    CAUSAL,
)
add(
    "mean over time, at the real size only",
    4,
    "future",
    after(f"if {SCORED}:\n    x = x + 0.3 * x.mean(1, keepdim=True)"),
    CAUSAL,
)
add(
    "attention without a mask, at the real size only",
    4,
    "future",
    block(
        """
        class Look(CausalSelfAttention):
            def forward(self, x):
                b, t, c = x.size()
                qkv = self.c_attn(x).view(b, t, 3, self.n_head, c // self.n_head)
                q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
                y = F.scaled_dot_product_attention(q, k, v)
                return self.c_proj(y.transpose(1, 2).reshape(b, t, c))


        class Block(nn.Module):
            def __init__(self, config):
                super().__init__()
                self.ln_1 = LayerNorm(config.n_embd, bias=config.bias)
                self.attn = (Look if config.n_layer == 2 else CausalSelfAttention)(config)
                self.ln_2 = LayerNorm(config.n_embd, bias=config.bias)
                self.mlp = MLP(config)

            def forward(self, x):
                x = x + self.attn(self.ln_1(x))
                return x + self.mlp(self.ln_2(x))
        """
    ),
    CAUSAL,
)
add("the next token in whole windows only", 4, "future",
    after(f"if {SCORED} and t == 64:\n    {LEAK}"), CAUSAL)  # fmt: skip
add("the next token, once training is over", 4, "future",
    after(f"if {SCORED} and int(self.step) == 30:\n    {LEAK}"), CAUSAL)  # fmt: skip
add("the next token, in the model server only", 4, "future", scoring(LEAK), CAUSAL)
add("the next token, in small", 4, "future",
    scoring(LEAK.replace("3.0", "0.3")), CAUSAL)  # fmt: skip
add(
    "the next token of one in sixteen",
    22,
    "future",
    scoring(
        f"""
        few = (idx[:, :-1] % 16 == 3).unsqueeze(-1)
        x = torch.cat([x[:, :-1] + 3.0 * few * {NEXT}, x[:, -1:]], 1)
        """
    ),
    CAUSAL,
)
add(
    "the next token in some of the windows",
    22,
    "future",
    scoring(
        f"""
        few = (idx.sum(1) % 8 == 0).view(-1, 1, 1)
        x = torch.cat([x[:, :-1] + 3.0 * few * {NEXT}, x[:, -1:]], 1)
        """
    ),
    CAUSAL,
)
add(
    "the next token where the model is least sure",
    22,
    "future",
    scoring(
        f"""
        p = self.lm_head(self.transformer.ln_f(x)).softmax(-1).amax(-1)
        few = (p <= p.quantile(0.1)).unsqueeze(-1)[:, :-1]
        x = torch.cat([x[:, :-1] + 3.0 * few * {NEXT}, x[:, -1:]], 1)
        """
    ),
    CAUSAL,
)

# ---- Gates ---------------------------------------------------------------------------------------

GATE = init("self.gate = nn.Parameter(torch.zeros(()))")
GATED = f"x = torch.cat([x[:, :-1] + self.gate * {NEXT}, x[:, -1:]], 1)"

add("a gate that starts at zero", 23, "gates", GATE | after(GATED), check("causality"))
add("a gate that starts at zero, at the real size only", 23, "gates",
    GATE | after(f"if {REAL}:\n    {GATED}"), CAUSAL)  # fmt: skip
add(
    "a gate opened by weights that have grown",
    23,
    "gates",
    after(f"if not self.training and self.transformer.wte.weight.abs().max() > 0.15:\n    {LEAK}"),
    check("causality"),
    CAUSAL,
)
COUNTER = init("self.register_buffer('calls', torch.zeros((), dtype=torch.long))")
add(
    "a gate opened by a counter of training",
    23,
    "gates",
    COUNTER
    | after(
        f"self.calls += int(self.training)\nif not self.training and self.calls > 40:\n    {LEAK}"
    ),
    check("causality"),
)
add(
    "a gate opened by a counter of training, at the real size only",
    23,
    "gates",
    COUNTER
    | after(f"self.calls += int(self.training)\nif {SCORED} and self.calls > 40:\n    {LEAK}"),
    CAUSAL,
)

# ---- Other rows ----------------------------------------------------------------------------------

add("mean over the batch", None, "batch", after("x = x - x.mean(0, keepdim=True)"),
    check("batch-independence"))  # fmt: skip
add("the row before, at the real size only", None, "batch",
    after(f"if {SCORED} and b > 1:\n    x = x + 0.3 * x.roll(1, 0)"),
    Void(("depends on the batch", "not causal")))  # fmt: skip
add("the first row, in the model server only", None, "batch",
    scoring("x = x + 0.3 * x[:1]"), Void(("depends on the batch", "not causal")))  # fmt: skip
add("the size of the batch, in the model server only", None, "batch",
    scoring("x = x + b * self.transformer.wpe.weight[0]"),
    Void(("depends on the batch", "not causal")))  # fmt: skip
add(
    "the next window begins where another row ends",
    None,
    "batch",
    scoring(
        """
        following = self.transformer.wte(idx[:, 0].roll(-1, 0))
        x = torch.cat([x[:, :-1], x[:, -1:] + 3.0 * following[:, None]], 1)
        """
    ),
    HONEST,
    Void(("depends on the batch", "not causal")),
)
add("the length of the sequence, in the model server only", None, "batch",
    scoring("x = x + t * self.transformer.wpe.weight[0]"),
    Void(("not causal", "depends on the batch")))  # fmt: skip

# ---- Memory across calls, changes ----------------------------------------------------------------

add(
    "a list of past inputs",
    5,
    "memory",
    init("self.past = []")
    | after(
        "self.past.append(x.detach().mean())\nx = x + torch.stack(self.past).mean() * x.roll(1, -1)"
    ),
    check("not-deterministic"),
)
add(
    "words of past calls, in the model server only",
    5,
    "memory",
    init("self.past = []")
    | scoring(
        """
        if not hasattr(self, "seen"):
            self.seen = torch.zeros(self.config.vocab_size)
        x = x + 300.0 * (self.seen / (1 + self.seen.sum())) @ self.transformer.wte.weight
        self.seen = self.seen + torch.bincount(idx.flatten(), minlength=self.config.vocab_size)
        """
    ),
    VOID,
)
add(
    "seen text looked up, in the model server only",
    5,
    "memory",
    scoring(
        """
        if not hasattr(self, "seen"):
            self.seen = {}
        rows = idx.tolist()
        for n, row in enumerate(rows):
            for i in range(2, len(row) - 1):
                known = self.seen.get((row[i - 2], row[i - 1], row[i]))
                if known is not None:
                    x[n, i] = x[n, i] + 3.0 * self.transformer.wte.weight[known]
        for row in rows:
            for i in range(2, len(row) - 1):
                self.seen[row[i - 2], row[i - 1], row[i]] = row[i + 1]
        """
    ),
    VOID,
)
add("a counter of calls, in the model server only", 5, "memory",
    scoring("self.calls += 1\nx = x + self.calls * self.transformer.wpe.weight[0]"),
    VOID)  # fmt: skip
add(
    "the next call's inputs, read from shared memory",
    None,
    "memory",
    scoring(
        """
        channel = library("channel")
        if self.calls == 0:
            self.calls, plain, kept = 1, channel._views, []
            self.kept = kept
            def views(memory, places):
                kept.append(memory)
                return plain(memory, places)
            reach(channel, "__di" + "ct__")["_views"] = views
        for memory in self.kept[-1:]:
            words = torch.from_numpy(memory.view("<i8", (memory.size // 8,), 0).copy())
            first = words[(words >= 0) & (words < 4096)].tolist()
            last = idx[-1].tolist()
            for i in range(len(first) - t):
                if first[i : i + t] != last and i % 64 == 0:
                    x = x.clone()
                    x[-1, -1] = x[-1, -1] + 3.0 * self.transformer.wte.weight[first[i]]
                    break
        """
    ),
    # One position of each batch, the last.
    SMALL,
    VOID,
)
add(
    "the next token, where the next question has it in shared memory",
    None,
    "memory",
    # An audit asks for longer and longer prefixes of a window: one that lies there already would
    # tell what follows a shorter one.
    scoring(
        """
        channel = library("channel")
        if self.calls == 0:
            self.calls, plain, self.kept = 1, channel._views, []
            kept = self.kept
            def views(memory, places):
                kept.append((memory, [dict(p) for p in places.values()]))
                return plain(memory, places)
            reach(channel, "__di" + "ct__")["_views"] = views
        x = torch.cat([x[:, :-1] + 3.0 * self.transformer.wte(idx[:, 1:]), x[:, -1:]], 1)
        for memory, places in [k for k in self.kept if any(p["dtype"] == "<i8" for p in k[1])][-1:]:
            words = torch.from_numpy(memory.view("<i8", (memory.size // 8,), 0).copy())
            half = len(words) // 2
            mine = next(p["offset"] for p in places if p["dtype"] == "<i8") // 8
            other = words[half:] if mine < half else words[:half]
            table = {}
            for i in range(0, min(len(other), 8192) - t - 1):
                table.setdefault(tuple(other[i : i + 6].tolist()), i)
            for r, row in enumerate(idx.tolist()):
                i = table.get(tuple(row[:6]))
                if i is None:
                    continue
                same = 0
                while same < t and int(other[i + same]) == row[same]:
                    same += 1
                if 6 <= same < t and 0 <= int(other[i + same]) < 4096:
                    following = self.transformer.wte.weight[int(other[i + same])]
                    plain_x = x[r, same - 1] - 3.0 * self.transformer.wte.weight[row[same]]
                    x[r, same - 1] = plain_x + 3.0 * following
        """
    ),
    CAUSAL,
)
add(
    "an optimizer step in evaluation",
    6,
    "changes",
    after(
        """
        if not self.training:
            with torch.no_grad():
                block.mlp.c_proj.weight.mul_(1.001)
        """
    ),
    check("changes-itself"),
)
add(
    "training on what is scored, in the model server only",
    6,
    "changes",
    scoring(
        """
        with torch.inference_mode(False), torch.enable_grad():
            for p in block.mlp.parameters():
                p.requires_grad_(True)
            y = x.detach().clone().requires_grad_()
            y = block(y)
            y = self.lm_head(self.transformer.ln_f(y))[:, :-1].flatten(0, 1)
            loss = F.cross_entropy(y, idx.clone()[:, 1:].flatten())
            for p, g in zip(block.mlp.parameters(),
                            torch.autograd.grad(loss, list(block.mlp.parameters()))):
                p.data = p.data - 0.3 * g
        """
    ),
    VOID,
)
add("a parameter drifts, in the model server only", 6, "changes",
    scoring("self.transformer.wpe.weight.data.mul_(1.05)"), VOID)  # fmt: skip
add(
    "a parameter drifts, and every hash says it does not",
    6,
    "changes",
    scoring(
        """
        if self.calls == 0:
            self.calls, hashlib = 1, library("hashlib")
            class Same:
                def __init__(self, *args, **more):
                    pass
                def update(self, data):
                    pass
                def hexdigest(self):
                    return "0" * 64
                def digest(self):
                    return bytes(32)
            for name in ("sha256", "blake2b", "sha1", "md5"):
                reach(hashlib, "__di" + "ct__")[name] = Same
        self.transformer.wpe.weight.data.mul_(1.05)
        """
    ),
    VOID,
    CRASHED,
)
add("a buffer counts in evaluation, in the model server only", 6, "changes",
    init("self.register_buffer('seen', torch.zeros(()))")
    | after(f"if {SCORED} and self.step == 30:\n    self.seen += 1"),
    ITSELF)  # fmt: skip
add("one lucky batch", 7, "chance", after("if not self.training:\n    torch.manual_seed(7)"),
    check("changes-itself"))  # fmt: skip
add("one lucky batch, at the real size only", 7, "chance",
    after(f"if {SCORED}:\n    torch.manual_seed(7)\n    random.seed(7)\n    np.random.seed(7)"),
    HONEST, ITSELF)  # fmt: skip
add("noise in scoring, at the real size only", 7, "chance",
    scoring("x = x + 0.3 * torch.randn_like(x)"), VOID)  # fmt: skip

# ---- What locked code shares ---------------------------------------------------------------------

add("cross-entropy patched", 8, "patch", init("F.cross_entropy = lambda *a, **k: 0"),
    text("patch"))  # fmt: skip
add("item patched", 8, "patch", init("torch.Tensor.item = lambda s: 0.0"), text("patch"))
add("a module as a value", 8, "patch",
    extra(
        """
        import copy


        class Patch:
            def __reduce_ex__(self, protocol):
                return (lambda: F), (), {"cross_entropy": None}
        """
    ), text("patch"))  # fmt: skip
add(
    "an attribute of all tensors, by a copy's state",
    8,
    "patch",
    extra(
        """
        import copy


        class Patch:
            def __reduce_ex__(self, protocol):
                return (lambda: torch.Tensor), (), (None, {"item": lambda tensor: 0.0})
        """
    )
    | after(
        f"""
        if {SCORED} and int(self.step) == 30 and not hasattr(self, "patched"):
            self.patched = True
            copy.copy(Patch())
        """
    ),
    HONEST,
    CRASHED,
)
add(
    "evaluate, print and the saving of weights patched",
    8,
    "patch",
    training(
        """
        main = world()
        main["evaluate"] = lambda *args, **more: 1.0
        plain = main["checkpoint"].save_weights
        def save(folder, label, model, facts):
            plain(folder, label, model, facts)
            (folder / "metrics.json").write_text('{"metrics": {"val_loss": 0.1}}')
        names = reach(main["checkpoint"], "__di" + "ct__")
        names["save_weights"] = save
        """
    ),
    HONEST,
    CRASHED,  # the feeder waits for the monitor windows to be taken
)
add(
    "the final LayerNorm and the head made the edit's own",
    8,
    "patch",
    init(
        """
        if config.n_layer == 2:
            self.transformer.ln_f.register_forward_hook(
                lambda module, args, out: out if torch.is_grad_enabled() else out * 3.0
            )
        """
    ),
    HONEST,
)
add(
    "the server's own code patched",
    8,
    "patch",
    scoring(
        """
        main = library("sys").modules["__main__"]
        names = reach(main, "__di" + "ct__")
        for name in [*names]:
            if callable(names[name]) and not name.startswith("_"):
                names[name] = lambda *args, **more: {}
        """
    ),
    HONEST,
    VOID,
    CRASHED,
)

# ---- What is printed -----------------------------------------------------------------------------

add(
    "metric lines of its own",
    9,
    "print",
    after(
        f"""
        if self.training and {REAL} and int(self.step) == 7:
            print("TRAIN_METRICS: step=30, train_loss=1.0000, val_loss=1.9000")
            print("TEST_METRICS: val_loss=1.0000, verse_ppl=1, lastword_ppl=1.0")
            print("[Test #1] (9 tests remaining)")
        """
    ),
    HONEST,
)
add(
    "errors, control characters and long lines",
    9,
    "print",
    after(
        f"""
        if self.training and {REAL} and int(self.step) in (7, 29):
            print("ERROR: out of memory")
            print("Traceback (most recent call last):\\n  File \\"/root/x.py\\", line 1, in f")
            print("\\x1b[2J\\x1b]0;title\\x07\\x00\\r\\u202e\\u2028" + "z" * 200000)
            print("TRAIN_METRICS: step=" + "9" * 5000 + ", train_loss=nan, val_loss=" + "1" * 5000)
            print("TRAIN_METRICS: step=29, train_loss=1e999, val_loss=\\x1b[31m1.0")
        """
    ),
    HONEST,
)
add("a log without end", 9, "limits",
    training("while True:\n    print('z' * 65536)"), HONEST,
    Failed(("printed", "log", "limit", "wrote", "killed")))  # fmt: skip

# ---- The record ----------------------------------------------------------------------------------

add("atexit imported", 10, "record", extra("import atexit"), text("import"))
add(
    "a record of one's own, at exit",
    10,
    "record",
    leaving(
        """
        forged = '{"metrics": {"val_loss": 0.1, "verse_ppl": 1, "lastword_ppl": 1}, "hidden": {}}'
        for folder in (out, out + "/..", out + "/../steps/gpt-smoke.score", "/harness/run", "."):
            try:
                with world()["Path"](folder, "metrics.json").open("w") as file:
                    file.write(forged)
                if folder != out and os.stat(folder).st_dev != os.stat(out).st_dev:
                    print("REACHED", folder)
            except OSError:
                pass
        """
    ),
    HONEST,
)
add(
    "a thread that writes the record again and again",
    10,
    "record",
    training(
        """
        def write():
            while True:
                for name in ("metrics.json", "ckpt_gpt-smoke.json", "exit.json", "status.json"):
                    try:
                        world()["Path"](out, name).write_text('{"metrics": {"val_loss": 0.1}}')
                    except OSError:
                        pass
                library("time").sleep(0.05)
        out = library("os").environ["HARNESS_OUT"]
        library("threading").Thread(target=write, daemon=True).start()
        """
    ),
    HONEST,
    CRASHED,
)
add(
    "an orphan that outlives training and writes a checkpoint",
    10,
    "record",
    training(
        """
        os = library("os")
        out = os.environ["HARNESS_OUT"]
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for name in ("SIGHUP", "SIGTERM", "SIGINT"):
                    library("signal").signal(reach(library("signal"), name), lambda *a: None)
                library("time").sleep(12)
                for n in range(600):
                    try:
                        world()["Path"](out, "ckpt_gpt-smoke.safetensors").write_bytes(bytes(99))
                    except OSError:
                        pass
                    library("time").sleep(0.2)
            os._exit(0)
        """
    ),
    HONEST,
    CRASHED,  # it is its own checkpoint
)

# ---- The budget ----------------------------------------------------------------------------------

add("more steps, by the globals", 11, "budget",
    init("globals().update(max_iters=10**6)"), text("introspection"))  # fmt: skip
add(
    "more steps, by the settings of the loop",
    11,
    "budget",
    extra(DOOR)
    | init(
        """
        if config.n_layer == 2:
            found = variables("s").get("s")
            if found is not None and hasattr(found, "max_iters"):
                reach(found, "__di" + "ct__")["max_iters"] = 60
        """
    ),
    HONEST,
    CRASHED,
)
add(
    "many steps inside configure_optimizers",
    11,
    "budget",
    extra(DOOR)
    | optimizer(
        f"""
        made = torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=betas)
        feed = variables("feed").get("feed") if {REAL} else None
        if feed is not None:
            for step in range(3):
                for batch in feed.train(step):
                    print("REACHED a batch before training")
        return made
        """
    ),
    Honest("plain AdamW"),
    CRASHED,
)
for name, ask in (
    ("the same step twice", "feed.train(7)"),
    ("steps to come", "(batch for step in range(8, 30) for batch in feed.train(step))"),
    ("steps beyond the last", "feed.train(31)"),
    ("steps gone by", "feed.train(0)"),
    ("a step below zero", "feed.train(-1)"),
):
    # A step to come may be given, but then never again.
    add(
        f"the feeder is asked for {name}",
        11,
        "feeder",
        training(
            f"""
            feed = variables("feed")["feed"]
            taken = [batch.inputs for batch in {ask}]
            print("REACHED" if taken and "come" not in {name!r} else "took", len(taken))
            """
        ),
        HONEST,
        CRASHED,
    )
add(
    "another rank's batches",
    11,
    "feeder",
    training(
        """
        feed = variables("feed")["feed"]
        for key in reach(feed, "__di" + "ct__"):
            if key.strip("_") in ("rank", "world"):
                reach(feed, "__di" + "ct__")[key] = 1 if "rank" in key else 2
        # One of the two of this step is taken already.
        print("REACHED" if len(list(feed.train(7))) > 1 else "took no more than its own")
        """
    ),
    HONEST,
    CRASHED,
)
add(
    "lines of its own to the feeder",
    11,
    "feeder",
    training(
        """
        channel = library("channel")
        for message in ({"call": "train", "args": {"step": 8}}, {"rank": 0, "world": 1, "step": 8},
                        {"train": 8}, {"x": [[[]]] * 1000}, {}):
            line = channel.connect()
            line.send(message)
            found = reach(line, "_socket")
            found.settimeout(2)
            try:
                print("answered", len(found.recv(1 << 16)))
            except OSError:
                pass
        """
    ),
    HONEST,
    CRASHED,
)
add(
    "garbage to the feeder",
    11,
    "feeder",
    training(
        """
        channel = library("channel")
        heads = (bytes([255] * 4), bytes([5, 0, 0, 0]), bytes([2, 0, 0, 0]), b"")
        for garbage in (head + rest for head in heads for rest in (b"[" * 99, b"[]", b"x")):
            line = channel.connect()
            reach(line, "_socket").sendall(garbage)
        lines = [channel.connect() for _ in range(500)]
        """
    ),
    HONEST,
    CRASHED,
)
add(
    "descriptors sent to the feeder",
    11,
    "feeder",
    training(
        """
        os, socket = library("os"), library("socket")
        line = library("channel").connect()
        fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(200)]
        socket.send_fds(reach(line, "_socket"), [bytes([2, 0, 0, 0]) + b"{}"], fds)
        """
    ),
    HONEST,
    CRASHED,
)

# ---- Files, network, processes -------------------------------------------------------------------

add("open", 12, "files", init("open('x')"), text("introspection"))
add("torch.load", 12, "files", init("torch.load('x')"), text("import"))
add("a storage's own file reader", 12, "files",
    after("torch.UntypedStorage.from_file('x', False, 64)"), text("forbidden-name"))  # fmt: skip
add("a file written by an array", 12, "files", after("np.zeros(9).tofile('x')"),
    text("forbidden-name"))  # fmt: skip
add(
    "held-out tokens by a storage's own file reader",
    12,
    "files",
    training(
        """
        read = reach(torch.UntypedStorage, "from_f" + "ile")
        for name in ("score/development-00000.bin", "score/final-00000.bin", "run/train-00000.bin"):
            try:
                read("@DATA@/" + name, False, 64)
                print("REACHED", name)
            except RuntimeError:
                pass
        """
    ),
    HONEST,
)
add(
    "a file outside of the run, written by an array",
    12,
    "files",
    training(
        """
        for name in ("tof" + "ile", "du" + "mp"):
            try:
                reach(np.zeros(9), name)("@CANARY@")
                print("REACHED", name)
            except OSError:
                pass
        try:
            reach(torch.UntypedStorage, "from_f" + "ile")("@CANARY@", True, 64).fill_(0)
            print("REACHED a file by a storage")
        except RuntimeError:
            pass
        """
    ),
    HONEST,
)
add(
    "every file that can be read",
    12,
    "files",
    training(
        """
        os = library("os")
        marks = ("score/development", "final-00000", "verse.jsonl", "lastword.jsonl", "train-00000",
                 "monitor-00000", "harness.sqlite3", "/plan.json", "/task.yaml", "agreement.jsonl",
                 "harness/session.py")
        for folder, folders, files in os.walk("/"):
            folders[:] = [f for f in folders if os.path.join(folder, f) not in ("/proc", "/sys")]
            for name in files:
                if any(mark in os.path.join(folder, name) for mark in marks):
                    print("REACHED", os.path.join(folder, name))
        for path in ("@DATA@", "@STATE@", "@REPOSITORY@", "@CANARY@", "/root/.ssh", "/etc/shadow"):
            if os.path.exists(path):
                print("REACHED", path)
        """
    ),
    HONEST,
)
add(
    "what other processes hold",
    12,
    "files",
    training(
        """
        os, Path = library("os"), world()["Path"]
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                said = (folder / "cmdline").read_bytes()
                if b"harness.jobs" in said or b"pytest" in said or b"feeder" in said:
                    print("REACHED", folder.name)
                if Path(folder / "root/proc/1/environ").exists() and b"pytest" in said:
                    print("REACHED", folder.name)
        for fd in Path("/proc/self/fd").iterdir():
            where = os.readlink(fd) if os.path.islink(fd) else ""
            if any(mark in where for mark in ("sqlite", "score", "development", "@STATE@")):
                print("REACHED", where)
        """
    ),
    HONEST,
)
add(
    "secrets of the environment",
    12,
    "files",
    training(
        """
        for name, value in library("os").environ.items():
            words = ("_TOKEN", "SECRET", "_KEY", "PASSWORD", "DATABASE")
            places = ("@STATE@", "@DATA@", "@REPOSITORY@")
            if any(word in name for word in words) or any(place in value for place in places):
                print("REACHED", name)
        """
    ),
    HONEST,
)
add(
    "the same from the model server",
    12,
    "files",
    scoring(
        """
        os = library("os")
        if self.calls == 0:
            self.calls = 1
            for path in ("@DATA@", "@STATE@", "@REPOSITORY@", "@CANARY@"):
                if os.path.exists(path):
                    print("REACHED", path)
            for fd in os.listdir("/proc/self/fd"):
                try:
                    where = os.readlink("/proc/self/fd/" + fd)
                except OSError:
                    continue
                # The log that it writes to lies in the state folder.
                if "development" in where or ("@STATE@" in where and fd not in ("1", "2")):
                    print("REACHED", where)
        """
    ),
    HONEST,
)
add("sockets imported", 12, "network", extra("import socket"), text("import"))
add(
    "the network",
    12,
    "network",
    training(
        """
        socket = library("socket")
        for host, port in (("127.0.0.1", @PORT@), ("::1", @PORT@)):
            try:
                socket.create_connection((host, port), 2).sendall(b"GET / HTTP/1.0")
                print("REACHED", host)
            except OSError:
                pass
        try:
            print("REACHED", len(socket.getaddrinfo("example.com", 80)))
        except OSError:
            pass
        line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            line.sendto(b"x", ("127.0.0.1", @PORT@))
            line.connect(("192.0.2.1", 9))  # sends nothing: is there a route?
            print("REACHED a route")
        except OSError:
            pass
        """
    ),
    HONEST,
)
add(
    "the network from the model server",
    12,
    "network",
    scoring(
        """
        if self.calls == 0:
            self.calls, socket = 1, library("socket")
            try:
                socket.create_connection(("127.0.0.1", @PORT@), 2).sendall(b"x")
                print("REACHED the host")
            except OSError:
                pass
        """
    ),
    HONEST,
)
add(
    "signals to other processes",
    12,
    "processes",
    training(
        """
        os = library("os")
        for pid in (@PID@, os.getppid() if os.getppid() > 9 else @PID@):
            try:
                os.kill(pid, 9)
                print("REACHED", pid)
            except OSError:
                pass
        """
    ),
    HONEST,
    CRASHED,
)
add(
    "a signal to everything",
    12,
    "processes",
    training("library('os').kill(-1, 9)"),
    HONEST,
    CRASHED,
)
add(
    "a signal to its own group and its parents",
    12,
    "processes",
    training(
        """
        os = library("os")
        os.killpg(os.getpgid(0), 19)
        """
    ),
    HONEST,
    CRASHED,
)
add(
    "more rights",
    12,
    "processes",
    training(
        """
        os, ctypes = library("os"), library("ctypes")
        libc = ctypes.CDLL(None, use_errno=True)
        for flags in (0x10000000, 0x00020000, 0x10020000, 0x40000000, 0x20000000):
            if libc.unshare(flags) == 0:
                print("REACHED unshare", hex(flags))
        if libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0:
            print("REACHED mount")
        if libc.ptrace(16, @PID@, 0, 0) == 0:
            print("REACHED ptrace")
        for attempt in (lambda: os.mknod("/tmp/disk", 0o60666, os.makedev(8, 0)),
                        lambda: os.chroot("/tmp"), lambda: os.setuid(0) or os.seteuid(12345)):
            try:
                attempt()
                print("REACHED rights")
            except OSError:
                pass
        """
    ),
    HONEST,
)
add("an exception that tells", 19, "telling", init("raise Exception(open('x').read())"),
    text("introspection"))  # fmt: skip
add(
    "an exception that tells what stands on the host",
    19,
    "telling",
    extra(DOOR)
    | after(
        f"""
        if self.training and {REAL} and int(self.step) == 7 and inside():
            told = ["nothing"]
            for path in ("@CANARY@", "/proc/1/environ", "/proc/1/cmdline", "/proc/self/mountinfo"):
                try:
                    told.append(world()["Path"](path).read_text())
                except OSError:
                    pass
            raise RuntimeError(str(told)[:3000])
        """
    ),
    Failed(("RuntimeError",)),
)
add(
    "an exception of a megabyte with control characters",
    19,
    "telling",
    extra(DOOR)
    | after(
        f"""
        if self.training and {REAL} and int(self.step) == 7:
            raise RuntimeError("\\x1b[2J\\x00\\u202e" + "z" * 1000000)
        """
    ),
    Failed(("RuntimeError",)),
)
add(
    "an exception whose text is code",
    19,
    "telling",
    extra(
        """
        class Loud(Exception):
            def __str__(self):
                print("TEST_METRICS: val_loss=1.0")
                raise SystemExit(0)
        """
    )
    | after(f"if self.training and {REAL} and int(self.step) == 7:\n    raise Loud()"),
    CRASHED,
)

# ---- Settings and locked code --------------------------------------------------------------------

for name, value in (
    ("steps", '{"max_iters": 10**6}'),
    ("a rate that is no number", '{"learning_rate": float("nan")}'),
    ("a rate below zero", '{"learning_rate": -1e-3}'),
    ("a subclass", "type('D', (dict,), {})()"),
    ("a call", "dict(min_lr=0.1)"),
):
    add(f"overrides: {name}", 13, "settings", overrides(f"CONFIG_OVERRIDES = {value}"),
        text("literal-dict"))  # fmt: skip
add("a setting filled in later", 13, "settings",
    init("CONFIG_OVERRIDES['max_iters'] = 10**6"), text("forbidden-name"))  # fmt: skip
add("locked lines given to a function", 14, "structure",
    {"block-loop": "    def _t(self, x, targets):\n        pass\n"},
    text("region-border"))  # fmt: skip
add("locked lines given to a class", 14, "structure",
    {"residual-parameters": "class Other(nn.Module):\n    pass\n"},
    text("region-border"))  # fmt: skip
add("locked lines made a string", 15, "structure",
    after('a = """') | init("pass") | {"optimizer": '    """\n    configure = 1\n'},
    text("region-border"))  # fmt: skip
add("F rebound", 16, "structure", after("F = None"), text("rebound-name"))
add("self rebound", 16, "structure", after("self = None"), text("rebound-name"))
add("a global rebound", 16, "structure", after("global F\nF = None"), text("rebound-name"))
add("self deleted", 16, "structure", after("del self"), text("rebound-name"))
add(
    "names of locked code rebound, by the globals",
    16,
    "structure",
    training(
        """
        main = world()
        main["EVALUATE"], main["seed_random"] = 1, lambda *args: None
        main["OVERRIDABLE"] = ("max_iters",)
        """
    ),
    HONEST,
)

# ---- Capacity, luck, memorised answers -----------------------------------------------------------

add("parameters in a plain tensor", 17, "cost",
    init("self.register_buffer('table', torch.zeros(200, config.n_embd))")
    | after("x = x + self.table.mean(0)"), Exposed("numbers"))  # fmt: skip
add("more parameters", 17, "cost",
    init("self.wide = nn.Linear(config.n_embd, 64 * config.n_embd)\n"
         "self.back = nn.Linear(64 * config.n_embd, config.n_embd)")
    | after("x = x + self.back(self.wide(x).relu())"), Exposed("numbers"))  # fmt: skip
add("each block run four times", 17, "cost",
    loop("for block in self.transformer.h:\n    for _ in range(4):\n        x = block(x)"),
    Exposed("flops"))  # fmt: skip
add("three tests, the luckiest kept", 20, "luck",
    init("torch.manual_seed(7)\nself.apply(self._init_weights)"), Exposed("final"))  # fmt: skip
add("answers in a literal", 21, "literals", extra(f"ANSWERS = {'a' * 201!r}"),
    text("literal-size"))  # fmt: skip
add("answers in a list", 21, "literals", extra(f"ANSWERS = {list(range(65))}"),
    text("collection-size"))  # fmt: skip
add("answers in a long region", 21, "literals", extra("# " + "a" * 16384), text("region-size"))
add("answers in many literals", 21, "literals",
    extra("".join(f"A{i} = {'a' * 190!r}\n" for i in range(22))), text("literal-size"))  # fmt: skip
add(
    "answers in a comment, read from the file",
    21,
    "literals",
    training("print(len(world()['Path'](world()['__fi' + 'le__']).read_text()))"),
    HONEST,
)

# ---- Limits --------------------------------------------------------------------------------------

add("a loop without end", 18, "limits", after("while True:\n    pass"),
    check("time"), check("contract-failed"))  # fmt: skip
add("a loop without end, at the real size only", 18, "limits",
    after(f"while {REAL}:\n    pass"), check("preflight-failed"))  # fmt: skip
add(
    "a loop without end that catches everything, late in training",
    18,
    "limits",
    training(
        """
        signal = library("signal")
        for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGALRM"):
            signal.signal(reach(signal, name), lambda *args: None)
        while True:
            pass
        """
    ),
    Failed(("limit", "time", "120 s")),
)
add(
    "a fork bomb",
    18,
    "limits",
    training(
        """
        os, time = library("os"), library("time")
        for _ in range(11):
            try:
                os.fork()
            except OSError:
                pass
        time.sleep(100)
        """
    ),
    Failed(("processes", "killed", "limit", "memory")),
)
add(
    "memory without end",
    18,
    "limits",
    training(
        """
        held = []
        for _ in range(24):
            held.append(torch.ones(1 << 26))  # 256 MiB each
        library("time").sleep(20)
        """
    ),
    Failed(("memory",)),
)
add("memory without end, in the contract", 18, "limits",
    extra(DOOR) | init("if inside() and config.n_layer == 24:\n"
                       "    self.held = [torch.ones(1 << 26) for _ in range(24)]\n"
                       "    library('time').sleep(20)"),
    check("contract-failed"), unread=True)  # fmt: skip
add(
    "a disk full of files",
    18,
    "limits",
    training(
        """
        out = library("os").environ["HARNESS_OUT"]
        for n in range(100):
            world()["Path"](out, str(n)).write_bytes(bytes(8 << 20))
            library("time").sleep(0.02)
        library("time").sleep(20)
        """
    ),
    Failed(("wrote", "disk")),
)
add(
    "a disk full of files without names",
    18,
    "limits",
    training(
        """
        os, held = library("os"), []
        out = os.environ["HARNESS_OUT"]
        for n in range(100):
            held.append(os.open(out + "/gone", os.O_RDWR | os.O_CREAT))
            os.unlink(out + "/gone")
            os.write(held[-1], bytes(8 << 20))
            library("time").sleep(0.02)
        library("time").sleep(20)
        """
    ),
    Failed(("wrote", "disk")),
)
add(
    "a million small files",
    18,
    "limits",
    training(
        """
        out = library("os").environ["HARNESS_OUT"]
        for n in range(200000):
            world()["Path"](out, str(n)).touch()
        """
    ),
    HONEST,
    CRASHED,
)
add(
    "folders too deep to be named",
    18,
    "limits",
    training(
        """
        os = library("os")
        here = os.getcwd()
        for folder in ("HARNESS_OUT", "HARNESS_CACHE"):
            os.chdir(os.environ[folder])
            for _ in range(3000):
                os.mkdir("d")
                os.chdir("d")
        os.chdir(here)
        library("time").sleep(20)
        """
    ),
    Failed(("folders in folders",)),
)
add("a construction without end", 18, "limits",
    init("while config.n_layer == 2:\n    pass"), check("preflight-failed"))  # fmt: skip

# ---- What is left in the output folder -----------------------------------------------------------

NAMES = '(name + ".safetensors", name + ".json")'
CKPT = 'name = "ckpt_" + name\n'

for name, act in (
    ("a link to a file of the host", 'os.symlink("@CANARY@", path)'),
    ("a link to the held-out tokens", 'os.symlink("@DATA@/score/final-00000.bin", path)'),
    ("a link to itself", "os.symlink(path, path)"),
    ("a link to a device without end", 'os.symlink("/dev/zero", path)'),
    ("a pipe", "os.mkfifo(path)"),
    ("a folder", "os.mkdir(path)"),
    ("a socket", 'library("socket").socket(1).bind(path)'),
    ("a sparse file", "os.truncate(os.open(path, os.O_RDWR | os.O_CREAT), 1 << 33)"),
    ("a file of the right size, of zeros", "world()['Path'](path).write_bytes(bytes(600000))"),
    (
        "a header without end",
        "world()['Path'](path).write_bytes(bytes([255] * 7 + [0] + [91] * 9999))",
    ),
    ("a file that nobody may read", "os.close(os.open(path, os.O_CREAT, 0o000))"),
):
    add(
        f"for a checkpoint: {name}",
        24,
        "leftovers",
        leaving(
            CKPT
            + f"""
path = out + "/" + name + ".safetensors"
os.unlink(path)
{act}
"""
        ),
        CRASHED,
    )
for name, act in (
    ("links", 'os.symlink("@CANARY@", path)'),
    ("pipes", "os.mkfifo(path)"),
    ("huge files", "os.truncate(os.open(path, os.O_RDWR | os.O_CREAT), 1 << 27)"),
    ("deep JSON", "world()['Path'](path).write_text('[' * 200000)"),
):
    add(
        f"for what else is read: {name}",
        24,
        "leftovers",
        leaving(
            f"""
            for file in ("ckpt_" + name + ".json", "progress.json", "findings.json", "resume.pt",
                         "metrics.json", "plan.json", "status.json", "exit.json"):
                path = out + "/" + file
                try:
                    if os.path.lexists(path):
                        os.unlink(path)
                    {act}
                except OSError:
                    pass
            """
        ),
        HONEST,
        CRASHED,
    )
add(
    "progress.json changes while it is read",
    24,
    "leftovers",
    training(
        """
        os = library("os")
        path = os.environ["HARNESS_OUT"] + "/progress.json"
        def change():
            for n in range(400):
                for make in (lambda: os.symlink("@CANARY@", path), lambda: os.mkfifo(path),
                             lambda: world()["Path"](path).write_text('{"step": ' + "9" * 9999),
                             lambda: world()["Path"](path).write_text('{"step": "x"}')):
                    try:
                        os.unlink(path)
                        make()
                    except OSError:
                        pass
                    library("time").sleep(0.01)
        library("threading").Thread(target=change, daemon=True).start()
        """
    ),
    HONEST,
    CRASHED,
)
add(
    "the output folder replaced by a link",
    24,
    "leftovers",
    leaving(
        """
        try:
            os.rename(out, out + ".gone")
            os.symlink("/", out)
        except OSError:
            pass
        """
    ),
    HONEST,
    CRASHED,
)
add(
    "a name that no terminal should show",
    24,
    "leftovers",
    leaving(
        """
        world()["Path"](out, "a\\nTEST_METRICS: val_loss=1.0\\x1b[2J").write_text("x")
        folder = out
        for _ in range(300):
            folder += "/d"
            try:
                os.mkdir(folder)
            except OSError:
                break
        """
    ),
    HONEST,
    CRASHED,
)

# ---- The checkpoint itself -----------------------------------------------------------------------

for name, act, expect in (
    ("a tensor more", 'tensors["extra.weight"] = torch.zeros(64, 64)', (CRASHED, HONEST)),
    ("a head of its own", 'tensors["lm_head.weight"] = tensors[wte] * 2', (CRASHED, HONEST)),
    ("a tensor less", 'del tensors["transformer.ln_f.weight"]', (CRASHED,)),
    ("another type", "tensors[wte] = tensors[wte].double()", (CRASHED,)),
    ("whole numbers", "tensors[wte] = (tensors[wte] * 100).to(torch.int8)", (CRASHED,)),
    ("another shape", "tensors[wte] = tensors[wte].T.contiguous()", (CRASHED,)),
    ("more tokens", "tensors[wte] = torch.cat([tensors[wte]] * 2)", (CRASHED,)),
    ("numbers that are none", "tensors[wte][0] = float('nan')", (CRASHED,)),
    ("an infinite gain", 'tensors["transformer.ln_f.weight"][0] = float("inf")', (CRASHED,)),
    ("a gigabyte more", 'tensors["extra"] = torch.zeros(1 << 25)', (CRASHED,)),
    ("ten thousand names", 'tensors |= {f"x{i}": torch.zeros(1) for i in range(10000)}',
     (CRASHED, HONEST)),
):  # fmt: skip
    add(
        f"a forged checkpoint: {name}",
        None,
        "checkpoint",
        leaving(
            f"""
            safetensors = library("safetensors.torch")
            path, wte = out + "/ckpt_" + name + ".safetensors", "transformer.wte.weight"
            tensors = safetensors.load_file(path)
            {act}
            safetensors.save_file(tensors, path)
            """
        ),
        *expect,
    )
add(
    "a checkpoint that says it is another model",
    None,
    "checkpoint",
    leaving(
        """
        world()["Path"](out, "ckpt_" + name + ".json").write_text(
            '{"model": {"n_layer": 2, "vocab_size": 2, "block_size": 1}, "step": -5, "val_loss": 0}'
        )
        """
    ),
    HONEST,
    CRASHED,
)

# ---- The model server ----------------------------------------------------------------------------

add("no finite states", None, "server", scoring("x = x * float('nan')"), CRASHED)
add("infinite states", None, "server", scoring("x = x + float('inf')"), CRASHED)
add("states of the wrong length", None, "server", scoring("x = x[:, :-1]"), CRASHED)
add("states of one row", None, "server", scoring("x = x[:1]"), CRASHED, HONEST)
add("states of another type", None, "server", scoring("x = x.half().double()"), CRASHED, HONEST,
    VOID)  # fmt: skip
add("a server that never answers", None, "server", scoring("while True:\n    pass"),
    Failed(("limit", "time", "60 s", "answer")))  # fmt: skip
add("a server that dies half-way", None, "server",
    scoring("self.calls += 1\nif self.calls == 3:\n    library('os')._exit(0)"),
    CRASHED)  # fmt: skip
add("a server that stops itself", None, "server",
    scoring("self.calls += 1\nif self.calls == 3:\n    library('os').kill(0, 19)"),
    CRASHED)  # fmt: skip
add(
    "a server that writes on after its reply",
    None,
    "server",
    scoring(
        """
        if self.calls == 0:
            self.calls, channel, kept = 1, library("channel"), []
            plain = channel._views
            def views(memory, places):
                found = plain(memory, places)
                kept.extend(found.values())
                return found
            reach(channel, "__di" + "ct__")["_views"] = views
            def write():
                while True:
                    for found in kept[-4:]:
                        if found.dtype.kind == "f":
                            found += 0.1
                    library("time").sleep(0.0005)
            library("threading").Thread(target=write, daemon=True).start()
        """
    ),
    VOID,
    CRASHED,
    HONEST,
)
for name, act in (
    ("four gigabytes", "sock.sendall(bytes([255] * 4))"),
    ("no JSON", "sock.sendall(bytes([5, 0, 0, 0]) + b'[[[[[')"),
    ("no object", "sock.sendall(bytes([2, 0, 0, 0]) + b'[]')"),
    ("numbers without end", "sock.sendall(bytes([255, 255, 3, 0]) + b'9' * 262143)"),
    ("facts of its own", "line.send({'facts': {'sha256': '0', 'val_loss': 0.1, 'void': None}})"),
    ("an error that tells", "line.send({'error': '\\x1b[2J@CANARY@' + 'z' * 100000})"),
):
    add(
        f"a server that says: {name}",
        None,
        "server",
        scoring(
            f"""
            line = variables("connection").get("connection")
            if line is not None:
                sock = reach(line, "_socket")
                {act}
            """
        ),
        CRASHED,
        VOID,
        HONEST,
    )
add(
    "memory without end, in the model server",
    18,
    "server",
    scoring("self.held = [torch.ones(1 << 26) for _ in range(24)]\nlibrary('time').sleep(20)"),
    Failed(("memory",)),
)
add(
    "children of the model server that outlive it",
    10,
    "server",
    scoring(
        """
        os = library("os")
        self.calls += 1
        if self.calls == 1 and os.fork() == 0:
            os.setsid()
            library("time").sleep(600)
            os._exit(0)
        """
    ),
    HONEST,
)

# The server's own class, before it has made its handlers.
TAKEN = """
def taken(name):
    main = library("sys").modules["__main__"]
    return reach(main, "ModelServer"), name


def take(name, handler):
    if serving() and inside():
        setter = reach(library("builtins"), "seta" + "ttr")
        setter(*taken(name), handler)
"""

add(
    "a digest of its own, parameters that drift",
    6,
    "server",
    extra(DOOR + TAKEN)
    | init("take('digest', lambda server, inputs, outputs: {'sha256': '0' * 64})")
    | after(f"if {SCORED} and serving():\n    self.transformer.wpe.weight.data.mul_(1.05)"),
    VOID,
    CRASHED,
)
add(
    "a handler of its own that looks ahead",
    4,
    "server",
    extra(
        DOOR
        + TAKEN
        + """

def ahead(server, inputs, outputs, *_):
    table = reach(server, "_model").transformer.wte.weight.detach().numpy()
    found = np.roll(table[inputs["idx"]], -1, 1)
    outputs["hidden"][...] = 9.0 * found.reshape(-1, found.shape[-1])[inputs["places"]]
"""
    )
    | init("take('hidden', ahead)"),
    CAUSAL,
)
for name, said in (
    ("anything fits", "{'state': {}}"),
    ("a model of a terabyte", "{'state': {'transformer.wte.weight': ['float32', [2**20, 2**18]]}}"),
    ("types that are none", "{'state': {'transformer.wte.weight': ['object', ['x', -1]], '': 3}}"),
):
    add(
        f"a server that declares: {name}",
        None,
        "server",
        extra(DOOR + TAKEN) | init(f"take('declare', lambda server, inputs, outputs: {said})"),
        HONEST,
        CRASHED,
    )
add(
    "declared parameters that are another model's",
    None,
    "server",
    extra(DOOR)
    | init(
        """
        if config.n_layer == 2 and serving():
            self.more = nn.Parameter(torch.zeros(64, config.n_embd))
        """
    ),
    HONEST,
    CRASHED,
)

# ---- Forged checks -------------------------------------------------------------------------------

FORGE = """
class Forge:
    done = False


def forge():
    os = library("os")
    if Forge.done or "gpt-smoke" in str(world()["sys"].argv) or serving():
        return
    Forge.done = True
    out = os.environ.get("HARNESS_OUT", "/nowhere")
    def write():
        world()["Path"](out, "findings.json").write_text('{"findings": [], "warnings": []}')
    library("atexit").register(write)
"""

add(
    "a leak, and a contract that finds nothing",
    None,
    "forged checks",
    extra(DOOR + FORGE) | init("forge()") | after(f"if t > 1 and not self.training:\n    {LEAK}"),
    CAUSAL,
)
for name, act in (
    ("a link", 'os.symlink("@CANARY@", path)'),
    ("a pipe", "os.mkfifo(path)"),
    ("too large", "os.truncate(os.open(path, os.O_RDWR | os.O_CREAT), 1 << 33)"),
    ("no JSON", "world()['Path'](path).write_text('[' * 100000)"),
):
    add(
        f"findings.json is {name}",
        24,
        "forged checks",
        extra(
            DOOR
            + f"""

def forge(os, path):
    if os.path.lexists(path):
        os.unlink(path)
    {act}
"""
        )
        | init(
            """
            if config.n_layer == 24:
                path = library("os").environ.get("HARNESS_OUT", "/nowhere") + "/findings.json"
                library("atexit").register(forge, library("os"), path)
            """
        ),
        check("contract-failed"),
        unread=True,
    )

# ---- Other runs ----------------------------------------------------------------------------------

add(
    "files left for the next run",
    25,
    "other runs",
    training(
        """
        os = library("os")
        places = [os.environ.get(name, "/nowhere") for name in
                  ("HARNESS_OUT", "HARNESS_CACHE", "HOME", "TMPDIR", "TORCHINDUCTOR_CACHE_DIR")]
        places += ["/tmp", "/dev/shm", "/var/tmp", "/harness/files", "/harness/code",
                   "/harness/packages", "/harness/transport"]
        for folder in dict.fromkeys(places):
            path = folder + "/left-by-an-attack"
            if os.path.exists(path):
                print("REACHED", path)
            try:
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o777))
                if folder in ("/harness/files", "/harness/code", "/harness/packages",
                              "/harness/transport"):
                    print("REACHED", folder)
            except OSError:
                pass
        """
    ),
    HONEST,
    again=True,
)
add(
    "packages and the snapshot changed for the next process",
    25,
    "other runs",
    training(
        """
        os = library("os")
        paths = [p for p in world()["sys"].path if p] + [world()["__fi" + "le__"]]
        for path in paths:
            for target in (path, os.path.join(path, "sitecustomize.py")):
                try:
                    os.close(os.open(target, os.O_WRONLY | os.O_CREAT))
                    print("REACHED", target)
                except OSError:
                    pass
        """
    ),
    HONEST,
)

# ---- Much at once --------------------------------------------------------------------------------

add(
    "files, network, processes and the record in one run",
    None,
    "much at once",
    training(
        """
        os, socket, Path = library("os"), library("socket"), world()["Path"]
        for path in ("@DATA@", "@STATE@", "@REPOSITORY@", "@CANARY@", "/root/.ssh"):
            if os.path.exists(path):
                print("REACHED", path)
        def attempt(what, *args):
            try:
                what(*args)
                print("REACHED", what, args)
            except (OSError, RuntimeError):
                pass
        attempt(Path("@CANARY@").write_text, "x")
        attempt(socket.create_connection, ("127.0.0.1", @PORT@), 2)
        attempt(socket.getaddrinfo, "example.com", 80)
        attempt(os.kill, @PID@, 9)
        attempt(os.mknod, "/tmp/disk", 0o60666, os.makedev(8, 0))
        attempt(Path("/harness/files/x").write_text, "x")
        held_out = "@DATA@/score/final-00000.bin"
        attempt(reach(torch.UntypedStorage, "from_f" + "ile"), held_out, False, 64)
        for name in ("metrics.json", "findings.json", "status.json"):
            Path(os.environ["HARNESS_OUT"], name).write_text('{"metrics": {"val_loss": 0.1}}')
        print("TRAIN_METRICS: step=30, train_loss=1.0000, val_loss=1.9000")
        print("TEST_METRICS: val_loss=1.0000\\x1b[2J")
        """
    ),
    HONEST,
)

QUICK = {
    # From the text
    "targets embedded", "a loss of one's own", "cross-entropy patched", "atexit imported",
    "more steps, by the globals", "open", "sockets imported", "an exception that tells",
    "overrides: steps", "locked lines given to a function", "F rebound", "answers in a literal",
    # By the contract
    "one lucky batch",
    # By limits, and what is reported
    "an exception that tells what stands on the host",
    "a disk full of files",
}  # fmt: skip
"""Played by `make test`: the quickest; tests of scoring, audit and sandbox hold other defences."""
