"""Edits of `llm-pretrain-residual`'s file: attacks with the rule that stops each, honest ideas.

An edit is a text for each region that it changes. `extra` goes below the unedited Block.
"""

from __future__ import annotations

from textwrap import dedent, indent
from typing import NamedTuple


class Attack(NamedTuple):
    threat: int
    """Its row in the list of threats that docs/checks.md follows."""
    rule: str
    edit: dict[str, str]


def loop(text: str) -> dict[str, str]:
    """The block loop, and then some statements."""
    plain = "for block in self.transformer.h:\n    x = block(x)\n"
    return {"block-loop": indent(plain + dedent(text).strip("\n") + "\n", " " * 8)}


def whole_loop(text: str) -> dict[str, str]:
    return {"block-loop": indent(dedent(text).strip("\n") + "\n", " " * 8)}


def init(text: str) -> dict[str, str]:
    return {"residual-parameters": indent(dedent(text).strip("\n") + "\n", " " * 8)}


def extra(text: str) -> dict[str, str]:
    return {"extra": dedent(text).strip("\n") + "\n"}


def block(text: str) -> dict[str, str]:
    return {"block": dedent(text).strip("\n") + "\n"}


def optimizer(text: str) -> dict[str, str]:
    return {"optimizer": indent(dedent(text).strip("\n") + "\n", " " * 4)}


def optimizer_body(text: str) -> dict[str, str]:
    head = "def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):\n"
    end = "\n    return torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=betas)\n"
    return {"optimizer": indent(head + indent(dedent(text).strip("\n"), "    ") + end, " " * 4)}


def overrides(text: str) -> dict[str, str]:
    return {"overrides": text + "\n"}


def raw(region: str, text: str) -> dict[str, str]:
    return {region: text}


FORBIDDEN = "forbidden-name"
LOOK = "introspection"
LEAVES = "leaves-locked-code"
REBOUND = "rebound-name"
BORDER = "region-border"
LOCKED = "locked-code"
DICT = "literal-dict"
CONTENT = "region-content"

ATTACKS = [
    # 1: the label in the input
    Attack(1, FORBIDDEN, loop("x = x + self.transformer.wte(targets)")),
    Attack(1, FORBIDDEN, loop("if targets is not None:\n    x = x * 1.0")),
    Attack(1, FORBIDDEN, loop("leak = lambda: targets\nx = x + leak()")),
    Attack(1, FORBIDDEN, loop("def leak():\n    return targets\nx = x + leak()")),
    Attack(1, FORBIDDEN, loop("x = x + sum(y for y in [targets])")),
    Attack(1, FORBIDDEN, loop("class T:\n    y = targets\nx = x + T.y")),
    Attack(1, FORBIDDEN, loop("x = x + len(f'{targets}')")),
    Attack(1, FORBIDDEN, loop("def leak(y=targets):\n    return y\nx = x + leak()")),
    Attack(1, FORBIDDEN, loop("def leak():\n    nonlocal targets\n    targets = idx\nleak()")),
    Attack(1, FORBIDDEN, loop("x = x + ｔａｒｇｅｔｓ")),
    Attack(1, FORBIDDEN, loop("match x:\n    case targets:\n        pass")),
    Attack(1, FORBIDDEN, loop("match targets:\n    case y:\n        x = x + y")),
    Attack(1, FORBIDDEN, loop("print(targets)")),
    Attack(1, LOOK, loop('x = x + locals()["targets"]')),
    Attack(1, LOOK, loop('x = x + vars()["targets"]')),
    Attack(1, LOOK, loop('x = x + eval("tar" + "gets")')),
    Attack(1, LOOK, loop('exec("x = x + tar" + "gets")')),
    Attack(1, LOOK, loop("see = locals\nx = x + list(see().values())[2]")),
    Attack(1, LOOK, loop("x = x + [*map(lambda f: f(), [locals])][0]['t']")),
    Attack(1, LOOK, loop("x = x + inspect.currentframe().f_locals['tar' + 'gets']")),
    Attack(1, LOOK, loop("x = x + inspect.stack()[0].frame.f_locals['tar' + 'gets']")),
    Attack(1, LOOK, loop("from inspect import currentframe as now\nx = x + now()")),
    Attack(1, LOOK, loop("x = x + getattr(inspect, 'current' + 'frame')()")),
    Attack(1, LOOK, loop("x = x + getattr(inspect, 'currentframe')()")),
    Attack(1, LOOK, loop("g = getattr\nx = x + g(self, 'x')")),
    Attack(
        1, LOOK, loop("try:\n    1 / 0\nexcept Exception as e:\n    f = e.__traceback__.tb_frame")
    ),
    Attack(1, LOOK, loop("g = (1 for _ in x)\nx = x + g.gi_frame.f_back.f_locals['t']")),
    Attack(1, LOOK, loop("def f():\n    return x\nx = f.__closure__[0].cell_contents")),
    Attack(
        1, LOOK, loop("match self.forward:\n    case object(__globals__=g):\n        x = x + 0")
    ),
    Attack(1, LOOK, loop("x = x + len('{0.__globals__}'.format(self.forward))")),
    Attack(1, LOOK, extra("def now():\n    return __builtins__")),
    Attack(
        1,
        LOOK,
        extra("class T(torch.Tensor):\n    def __torch_function__(self, *a):\n        pass"),
    ),
    Attack(1, LOOK, extra("class T(torch.Tensor):\n    __torch_dispatch__ = None")),
    Attack(1, LOOK, extra("import operator\ndef f(o):\n    return operator.attrgetter('f')(o)")),
    Attack(1, LOOK, extra("def f(g: 'x'):\n    return inspect.signature(f, eval_str=True)")),
    Attack(1, "import", loop("x = x + sys._getframe().f_locals['tar' + 'gets']")),
    Attack(1, "import", loop("x = x + torch.sys._getframe().f_locals['tar' + 'gets']")),
    Attack(1, "import", loop("import sys as s\nx = x + s.argv")),
    Attack(1, "import", extra("import torch.overrides")),
    Attack(1, "import", extra("class M(torch.overrides.TorchFunctionMode):\n    pass")),
    Attack(1, "patch", init("self.register_forward_pre_hook(lambda m, a: None)")),
    Attack(1, "patch", init("me = self\nme.register_forward_hook(lambda m, a, o: None)")),
    Attack(1, "patch", init("getattr(self, 'register_forward_pre_hook')(print)")),
    Attack(1, LOOK, init("torch.nn.modules.module.register_module_forward_pre_hook(print)")),
    Attack(1, LOOK, init("self._forward_pre_hooks[0] = print")),
    # 2: other labels
    Attack(2, FORBIDDEN, loop("targets[x[..., 0] > 0] = -1")),
    Attack(2, FORBIDDEN, loop("targets = None")),
    Attack(2, FORBIDDEN, loop("del targets")),
    Attack(2, FORBIDDEN, loop("targets.fill_(-1)")),
    Attack(2, FORBIDDEN, loop("targets += 1")),
    Attack(2, FORBIDDEN, loop("for targets in [idx]:\n    pass")),
    Attack(2, FORBIDDEN, loop("import math as targets")),
    Attack(2, FORBIDDEN, loop("(targets := idx)")),
    Attack(2, FORBIDDEN, loop("with torch.no_grad() as targets:\n    pass")),
    Attack(2, FORBIDDEN, loop("[(targets := y) for y in x]")),
    Attack(2, FORBIDDEN, loop("try:\n    pass\nexcept ValueError as targets:\n    pass")),
    # 3: a loss of one's own, locked lines left out
    Attack(3, LEAVES, loop("return x, x.sum() * 0 + 3.0")),
    Attack(3, LEAVES, loop("if self.training:\n    return x, None")),
    Attack(3, LEAVES, loop("try:\n    pass\nfinally:\n    return x, None")),
    Attack(3, LEAVES, loop("with torch.no_grad():\n    for i in x:\n        return i")),
    Attack(3, LEAVES, loop("match t:\n    case 1:\n        return x, None")),
    Attack(3, LEAVES, loop("yield x")),
    Attack(3, LEAVES, loop("y = yield")),
    Attack(3, LEAVES, loop("yield from x")),
    Attack(3, LEAVES, loop("f = lambda a=(yield): a")),
    Attack(3, LEAVES, init("return")),
    Attack(3, "syntax", loop("await x")),
    # 8: what locked code shares, patched
    Attack(8, "patch", extra("def f():\n    F.cross_entropy = None")),
    Attack(8, "patch", init("F.cross_entropy = lambda *a, **k: 0")),
    Attack(8, "patch", init("torch.nn.functional.cross_entropy = None")),
    Attack(8, "patch", init("setattr(F, 'cross_entropy', None)")),
    Attack(8, "patch", init("object.__setattr__(F, 'cross_entropy', None)")),
    Attack(8, LOOK, init("F.__dict__['cross_entropy'] = None")),
    Attack(8, LOOK, init("vars(F)['cross_entropy'] = None")),
    Attack(8, LOOK, init("F.cross_entropy.__code__ = print.__code__")),
    Attack(8, LOOK, init("put = setattr\nput(F, 'cross_entropy', None)")),
    Attack(8, LOOK, init("functools.partial(setattr, F)('cross_entropy', None)")),
    Attack(8, "patch", init("lib = torch.nn.functional\nlib.cross_entropy = None")),
    Attack(8, "patch", init("for lib in [torch.nn.functional]:\n    lib.cross_entropy = None")),
    Attack(8, "patch", init("(lambda lib: setattr(lib, 'cross_entropy', None))(F)")),
    Attack(8, "patch", init("def f(lib):\n    lib.cross_entropy = None")),
    Attack(8, "patch", init("[None for F.cross_entropy in [print]]")),
    Attack(8, "patch", init("for F.cross_entropy in [print]:\n    pass")),
    Attack(8, "patch", init("with torch.no_grad() as F.cross_entropy:\n    pass")),
    Attack(8, "patch", init("F.cross_entropy: int = 3")),
    Attack(8, "patch", init("del F.cross_entropy")),
    Attack(8, "patch", init("F.cross_entropy += 1")),
    Attack(8, "patch", init("a, F.cross_entropy = 1, 2")),
    Attack(8, "patch", init("torch.Tensor.item = lambda s: 0.0")),
    Attack(8, "patch", init("T = torch.Tensor\nT.item = lambda s: 0.0")),
    Attack(8, "patch", init("nn.Linear.forward = None")),
    Attack(8, "patch", init("getattr(torch, 'Tensor').item = None")),
    Attack(8, "patch", init("getattr(nn, 'functional').cross_entropy = None")),
    Attack(8, "patch", init("(F if config else torch).cross_entropy = None")),
    Attack(8, "patch", init("GPT.forward = None")),
    Attack(8, "patch", init("CausalSelfAttention.forward = None")),
    Attack(8, "patch", init("TrainConfig.max_iters = 10**6")),
    Attack(8, "patch", init("type(self).forward = None")),
    Attack(8, "patch", init("self.__class__.forward = None")),
    Attack(8, "patch", init("cls = type(self)\ncls.forward = None")),
    Attack(8, LOOK, init("self.__class__ = Block")),
    Attack(8, "patch", init("self.forward = lambda idx, y=None: (idx, 3.0)")),
    Attack(8, "patch", init("setattr(self, 'forward', None)")),
    Attack(8, "patch", init("me = self\nme.forward = None")),
    Attack(8, "patch", init("self.parameters = lambda: iter([])")),
    Attack(8, "patch", optimizer_body("self.forward = None")),
    Attack(8, "patch", optimizer_body("def f():\n    self.forward = None\nf()")),
    Attack(8, LOOK, init("setattr(self, 'for' + 'ward', None)")),
    Attack(8, LOOK, init("setattr(*[self, 'forward', None])")),
    Attack(8, LOOK, init("for k in ['forward']:\n    setattr(self, k, None)")),
    Attack(8, LOOK, init("setattr(self, f'{\"for\"}ward', None)")),
    Attack(8, LOOK, extra("class A:\n    pass\ndef f():\n    A.__bases__ = ()")),
    Attack(8, LOOK, extra("def f():\n    nn.Module.__subclasses__()")),
    Attack(8, LOOK, extra("def f():\n    nn.Module.mro()")),
    # 10, 12, 19: the process, files, the network
    Attack(10, "import", extra("import atexit")),
    Attack(10, "import", extra("import threading")),
    Attack(10, "import", init("from subprocess import Popen as P")),
    Attack(10, "import", init("os.fork()")),
    Attack(10, "import", init("checkpoint.save_weights(1)")),
    Attack(10, "import", init("torch.save(self, 'x')")),
    Attack(12, "import", init("torch.load('x')")),
    Attack(12, "import", init("from torch import load as f")),
    Attack(12, "import", init("np.memmap('x')")),
    Attack(12, "import", init("data.open_feed()")),
    Attack(12, "import", init("torch.hub.load_state_dict_from_url('x')")),
    Attack(12, "import", init("Path('x').read_text()")),
    Attack(12, "import", init("import torch.utils.cpp_extension")),
    Attack(12, "import", init("from torch.utils import cpp_extension")),
    Attack(12, "import", init("torch.utils.benchmark.Timer('x').timeit()")),
    Attack(12, "import", init("torch.os.environ")),
    Attack(12, "import", init("getattr(torch, 'os').environ")),
    Attack(12, "import", init("import os.path")),
    Attack(12, "import", init("from . import data")),
    Attack(12, "import", init("from math import *") | extra("from math import *")),
    Attack(12, LOOK, init("open('x')")),
    Attack(12, LOOK, init("__import__('os')")),
    Attack(12, LOOK, init("breakpoint()")),
    Attack(19, LOOK, init("raise Exception(open('x').read())")),
    Attack(19, "import", init("raise Exception(os.environ)")),
    Attack(19, LOOK, init("raise Exception(globals())")),
    # 11: the budget
    Attack(11, LOOK, init("globals().update(max_iters=10**6)")),
    Attack(11, FORBIDDEN, init("CONFIG_OVERRIDES['max_iters'] = 10**6")),
    Attack(11, REBOUND, init("global TrainConfig\nTrainConfig = None")),
    Attack(11, REBOUND, init("def f():\n    global evaluate\n    evaluate = None\nf()")),
    Attack(11, REBOUND, extra("def evaluate():\n    pass")),
    Attack(11, REBOUND, extra("TRAIN = 3")),
    Attack(11, "import", init("sys.modules['__main__']")),
    # 13: the schedule
    Attack(13, DICT, overrides('CONFIG_OVERRIDES = {"max_iters": 10}')),
    Attack(13, DICT, overrides('CONFIG_OVERRIDES = {"learning_rate": 10**2}')),
    Attack(13, DICT, overrides('CONFIG_OVERRIDES = {"learning_rate": 1e-3 + 0}')),
    Attack(13, DICT, overrides('CONFIG_OVERRIDES = {"learning_rate": 1e999}')),
    Attack(13, DICT, overrides('CONFIG_OVERRIDES = {"learning_rate": -1e-3}')),
    Attack(13, DICT, overrides('CONFIG_OVERRIDES = {"learning_rate": 5.0}')),
    Attack(13, DICT, overrides('CONFIG_OVERRIDES = {"learning_rate": 1e999 - 1e999}')),
    Attack(13, DICT, overrides('CONFIG_OVERRIDES = {"learning_rate": True}')),
    Attack(13, DICT, overrides('CONFIG_OVERRIDES = {"learning_rate": "1"}')),
    Attack(13, DICT, overrides('CONFIG_OVERRIDES = {"learning_rate": None}')),
    Attack(13, DICT, overrides('CONFIG_OVERRIDES = {"learning_rate": 1j}')),
    Attack(13, DICT, overrides('CONFIG_OVERRIDES = {"learning_rate": float("nan")}')),
    Attack(13, DICT, overrides('CONFIG_OVERRIDES = {"learning_rate": math.nan}')),
    Attack(13, DICT, overrides('CONFIG_OVERRIDES = {"learning_rate": --1}')),
    Attack(13, DICT, overrides('CONFIG_OVERRIDES = {"min_lr": 0.1, "min_lr": 0.2}')),
    Attack(13, DICT, overrides('CONFIG_OVERRIDES = {**{"min_lr": 0.1}}')),
    Attack(13, DICT, overrides('CONFIG_OVERRIDES = {"min" "_l": 0.1}')),
    Attack(13, DICT, overrides('CONFIG_OVERRIDES = {f"min_lr": 0.1}')),
    Attack(13, DICT, overrides("CONFIG_OVERRIDES = dict(min_lr=0.1)")),
    Attack(13, DICT, overrides("CONFIG_OVERRIDES = {k: 1 for k in ['min_lr']}")),
    Attack(13, DICT, overrides("CONFIG_OVERRIDES = type('D', (dict,), {})()")),
    Attack(13, DICT, overrides("CONFIG_OVERRIDES = {} | {'min_lr': 0.1}")),
    Attack(13, DICT, overrides("CONFIG_OVERRIDES = {} if 1 else {}")),
    Attack(13, CONTENT, overrides("CONFIG_OVERRIDES = other = {}")),
    Attack(13, CONTENT, overrides("CONFIG_OVERRIDES: dict = {}")),
    Attack(13, CONTENT, overrides("CONFIG_OVERRIDES = {}\nCONFIG_OVERRIDES |= {'min_lr': 1}")),
    Attack(13, CONTENT, overrides("CONFIG_OVERRIDES = {}; OVERRIDABLE = ('max_iters',)")),
    Attack(13, CONTENT, overrides("CONFIG_OVERRIDES = {}\nimport os")),
    Attack(13, CONTENT, overrides("class D(dict): pass\nCONFIG_OVERRIDES = {}")),
    Attack(13, "missing-name", overrides("# nothing")),
    Attack(13, REBOUND, extra("CONFIG_OVERRIDES = {}") | overrides("CONFIG_OVERRIDES = {}")),
    # 14: locked lines given to another statement
    Attack(14, BORDER, raw("block-loop", "    def _t(self, x, targets):\n        pass\n")),
    Attack(14, BORDER, raw("block-loop", "    if True:\n        pass\n")),
    Attack(14, BORDER, raw("block-loop", "    async def _t(self, x, targets):\n        pass\n")),
    Attack(14, BORDER, raw("block-loop", "    class T:\n        pass\n")),
    Attack(14, BORDER, raw("block-loop", "    while False:\n        pass\n")),
    Attack(14, "syntax", raw("block-loop", "def f(self, x, targets):\n        pass\n")),
    Attack(14, BORDER, raw("residual-parameters", "class Other(nn.Module):\n    pass\n")),
    Attack(14, BORDER, raw("block-loop", "        if x is None: pass; \\\n")),
    Attack(14, BORDER, raw("block", "class Block(nn.Module):\n    pass\n\n@staticmethod\n")),
    Attack(14, BORDER, raw("residual-parameters", "    @property\n")),
    Attack(14, "region-scope", raw("residual-parameters", "    def eval(self):\n        pass\n")),
    Attack(14, "region-scope", raw("residual-parameters", "    num = 3\n")),
    Attack(14, LOCKED, raw("optimizer", "        x = 3\n")),
    # 15: locked lines made text
    Attack(15, BORDER, loop('a = """') | init("pass") | optimizer('"""\nconfigure = 1')),
    Attack(15, BORDER, init("a = '''") | loop("a = '''\nb = 1\n")),
    Attack(15, "syntax", init('f"""') | loop('"""\npass')),
    Attack(15, "syntax", loop('a = """')),
    Attack(15, "syntax", loop("x = (x +")),
    Attack(15, "syntax", loop("x = [x,")),
    # 16: names that locked lines use
    Attack(16, REBOUND, loop("F = None")),
    Attack(16, REBOUND, loop("self = None")),
    Attack(16, REBOUND, loop("global F")),
    Attack(16, REBOUND, loop("global logits")),
    Attack(16, REBOUND, loop("del self")),
    Attack(16, REBOUND, loop("import torch.nn as F")),
    Attack(16, REBOUND, loop("from torch import nn as F")),
    Attack(16, REBOUND, loop("for F in [1]:\n    pass")),
    Attack(16, REBOUND, loop("with torch.no_grad() as F:\n    pass")),
    Attack(16, REBOUND, loop("(F := None)")),
    Attack(16, REBOUND, loop("[F := y for y in x]")),
    Attack(16, REBOUND, loop("try:\n    pass\nexcept ValueError as F:\n    pass")),
    Attack(16, REBOUND, loop("match x:\n    case F:\n        pass")),
    Attack(16, REBOUND, loop("match x:\n    case [*F]:\n        pass")),
    Attack(16, REBOUND, loop("match x:\n    case {**F}:\n        pass")),
    Attack(16, REBOUND, loop("def F():\n    pass")),
    Attack(16, REBOUND, loop("class F:\n    pass")),
    Attack(16, REBOUND, loop("F: int")),
    Attack(16, REBOUND, loop("(a, [F]) = 1, [2]")),
    Attack(16, REBOUND, loop("torch = None")),
    Attack(16, REBOUND, loop("import torch")),
    Attack(16, REBOUND, loop("ValueError = None")),
    Attack(16, REBOUND, loop("def f():\n    nonlocal logits\n    logits = 0\nf()")),
    Attack(16, REBOUND, loop("def f():\n    nonlocal self\n    self = 0\nf()")),
    Attack(16, REBOUND, loop("def f():\n    global F\n    F = 0\nf()")),
    Attack(16, REBOUND, loop("class A:\n    global F\n    F = 0")),
    Attack(16, REBOUND, loop("def f():\n    def g():\n        global print\n        print = 0")),
    Attack(16, REBOUND, init("super = None")),
    Attack(16, REBOUND, init("nn = None")),
    Attack(16, REBOUND, extra("F = 3")),
    Attack(16, REBOUND, extra("def max(*a):\n    return 0")),
    Attack(16, REBOUND, extra("class print:\n    pass")),
    Attack(16, REBOUND, extra("import random as math")),
    Attack(16, REBOUND, extra("from torch import nn as F")),
    Attack(16, REBOUND, extra("class LayerNorm(nn.LayerNorm):\n    pass")),
    Attack(16, REBOUND, extra("def float(x):\n    return 1.9")),
    Attack(16, REBOUND, extra("__name__ = 'other'")),
    Attack(16, CONTENT, extra("F, G = 1, 2")),
    Attack(16, CONTENT, extra("for i in range(3):\n    pass")),
    Attack(16, CONTENT, extra("torch.manual_seed(1)")),
    Attack(16, CONTENT, extra("del F")),
    Attack(16, CONTENT, extra("if True:\n    F = 3")),
    Attack(16, CONTENT, extra("A = torch.ones(3)")),
    Attack(16, CONTENT, extra("A = lambda: 3")),
    Attack(16, CONTENT, extra("A = [y for y in (1, 2)]")),
    Attack(16, CONTENT, extra("A.b = 3")),
    # 21: answers stored in the file
    *[
        Attack(21, "literal-size", extra(text))
        for text in (
            f"A = {'a' * 201!r}",
            f"A = {b'a' * 201!r}",
            f"A = {'a' * 101!r} {'a' * 101!r}",
            f"def f():\n    return {'a' * 101!r} + {'a' * 101!r}",
            f"def f(x):\n    return f'{'a' * 101}{{x}}{'a' * 101}'",
            f"A = 0x{'f' * 300}",
            "".join(f"A{i} = {'a' * 190!r}\n" for i in range(22)),
            # in docstrings, one by one as long as they like
            f"def f():\n    {'a' * 4097!r}",
            "".join(f"def f{i}():\n    {'a' * 900!r}\n\n" for i in range(5)),
            f"class K:\n    {'a' * 2100!r}\n\n    def f(self):\n        {'a' * 2000!r}",
            # in names, and in numbers
            f"class K:\n    q{'a' * 60}: int = 1",
            f"def f(q{'a' * 60}=1):\n    pass",
            f"def f():\n    return dict(q{'a' * 60}=1)",
            f"class K:\n    class q{'a' * 60}:\n        pass",
            f"import math as q{'a' * 60}",
            "class K:\n" + "".join(f"    q{'a' * 55}{i}: int\n" for i in range(100, 180)),
            "".join(f"A{i} = 0x{'ab' * 90}\n" for i in range(24)),
        )
    ],
    Attack(21, "literal-size", init(f"self.q{'a' * 60} = 1")),
    Attack(21, "collection-size", extra(f"A = {list(range(65))}")),
    Attack(21, "collection-size", extra(f"A = {[[i] * 13 for i in range(5)]}")),
    Attack(21, "collection-size", extra(f"A = {dict.fromkeys(range(33), 0)}")),
    Attack(21, "collection-size", extra(f"A = {set(range(65))}")),
    Attack(21, "collection-size", extra(f"A = {[-i for i in range(1, 66)]}")),
    Attack(21, "collection-size", extra(f"def f():\n    return max({str(list(range(65)))[1:-1]})")),
    Attack(21, "region-size", extra("# " + "a" * 16384)),
    Attack(21, "region-size", init("# " + "é" * 8200)),
    Attack(21, LOOK, extra("def f():\n    return inspect.getsource(Block)")),
    Attack(21, LOOK, extra("def f():\n    'stored'\n\ndef g():\n    return f.__doc__")),
    Attack(21, LOOK, extra("def g():\n    return inspect.getdoc(Block)")),
    # found while trying to get through
    Attack(8, "patch", init("super().__setattr__('forward', None)")),
    Attack(8, "patch", init("nn.Module.__setattr__(self, 'forward', None)")),
    Attack(8, LOOK, init("self.__setattr__('forward', None)")),
    Attack(8, LOOK, init("super().__setstate__({'forward': None})")),
    Attack(8, LOOK, init("self.__setstate__({'forward': None})")),
    Attack(8, LOOK, init("self.__dict__.update(forward=None)")),
    Attack(8, LOOK, init("setattr(self, f'forward', None)")),
    Attack(8, LOOK, init("setattr(self, f'for{\"ward\"}', None)")),
    Attack(8, LOOK, init("setattr(self, 'for%s' % 'ward', None)")),
    Attack(8, LOOK, init("setattr(self, '{}'.format('forward'), None)")),
    Attack(8, LOOK, init("setattr(torch.Tensor, f'it{\"em\"}', None)")),
    Attack(8, LOOK, init("setattr(F, f'cross_{\"entropy\"}', None)")),
    Attack(8, LOOK, init("import functools\nfunctools.update_wrapper(self, print)")),
    Attack(8, LOOK, init("from functools import wraps\nwraps(print)(self)")),
    Attack(8, "patch", init("for self.forward in [print]:\n    pass")),
    Attack(8, "patch", init("for m in [self]:\n    m.forward = None")),
    Attack(8, "patch", init("self.state_dict = lambda: {}")),
    Attack(8, "patch", init("self.train = lambda mode=True: self")),
    Attack(8, "patch", init("nn.modules.loss.F.cross_entropy = None")),
    Attack(8, "patch", extra("class P:\n    F = F\n\ndef f():\n    P.F.cross_entropy = None")),
    Attack(8, "patch", extra("import warnings\ndef f():\n    warnings.showwarning = print")),
    Attack(8, "patch", extra("def f(c=nn.Linear):\n    c, d = nn.Linear, 3\n    c.x = 1")),
    Attack(1, "patch", init("nn.Module.register_forward_pre_hook(self, print, with_kwargs=True)")),
    Attack(1, "patch", init("[m.register_forward_pre_hook(print) for m in (self,)]")),
    Attack(1, LOOK, init("getattr(self, f'register_forward_{\"hook\"}')(print)")),
    Attack(1, LOOK, extra("class P:\n    locals = locals")),
    Attack(1, LOOK, extra("def f():\n    global locals\n    return locals()")),
    Attack(1, LOOK, extra("def f(vars=vars):\n    return vars()")),
    Attack(1, LOOK, extra("def f(o):\n    return type('T', (o,), {'a': 1})")),
    Attack(1, LOOK, extra("class P(nn.Module, metaclass=print):\n    pass")),
    Attack(1, LOOK, extra("class P(nn.Module, **{'metaclass': print}):\n    pass")),
    Attack(1, LOOK, extra("class P(type):\n    pass")),
    Attack(1, LOOK, extra("NAME = '__torch_function__'")),
    Attack(1, LOOK, extra("def f():\n    return print.__self__")),
    Attack(1, LOOK, extra("def f(o):\n    return o.__func__.__wrapped__")),
    Attack(1, LOOK, extra("def f():\n    return ''.__class__.__base__")),
    Attack(12, "import", extra("def f():\n    return random._os.getcwd()")),
    Attack(12, "import", extra("import enum\ndef f():\n    return enum.bltns")),
    Attack(12, "import", extra("def f():\n    return dataclasses._create_fn('f', [], ['pass'])")),
    Attack(12, "import", extra("from dataclasses import _create_fn")),
    Attack(12, "import", extra("def f():\n    return np.lib.format.open_memmap")),
    Attack(12, "import", extra("import typing\ndef f():\n    return typing.sys")),
    Attack(12, "import", extra("def f():\n    return inspect.getargvalues")),
    Attack(13, CONTENT, extra("A = 10 ** 10 ** 10")),
    Attack(13, CONTENT, extra("A = 'a' * 10")),
    # shared objects that reach an assignment through a call, a container or an attribute
    Attack(8, "patch", init("for C in map(lambda c: c, [torch.Tensor]):\n    C.__float__ = print")),
    Attack(8, "patch", init("for C in map(lambda c: c, [torch.Tensor]):\n    C.detach = print")),
    Attack(
        11, "patch", init("for C in map(str, [TrainConfig]):\n    C.max_iters = property(print)")
    ),
    Attack(
        11, "patch", init("[C] = [*filter(None, [TrainConfig])]\nC.max_iters = property(print)")
    ),
    Attack(11, "patch", extra("def f(c):\n    c.max_iters = 3\n\ndef g():\n    f(TrainConfig)")),
    Attack(11, "patch", extra("def f(c):\n    setattr(c, 'max_iters', 3)")),
    Attack(11, "patch", init("d = dict(a=TrainConfig)\nd['a'].max_iters = 3")),
    Attack(11, "patch", init("sorted([TrainConfig], key=str)[0].schedule = None")),
    Attack(8, "patch", init("for C in map(type, [self]):\n    C.forward = print")),
    Attack(8, "patch", init("for m in self.modules():\n    m.forward = print")),
    Attack(8, "patch", init("for n, m in self.named_modules():\n    m.forward = print")),
    Attack(8, "patch", init("next(self.modules()).forward = print")),
    Attack(8, "patch", init("self.get_submodule('').forward = print")),
    Attack(8, "patch", init("me = [self].pop()\nme.state_dict = print")),
    Attack(
        8,
        "patch",
        init("m = self.transformer\nfor m in filter(None, [F]):\n    m.softmax = 1")
        | init("m = self.transformer\nfor m in filter(None, [F]):\n    m.cross_entropy = 1"),
    ),
    Attack(
        8, "patch", init("m = self.transformer\nfor m in filter(None, [self]):\n    m.forward = 1")
    ),
    Attack(8, "patch", init("m = self.transformer\nm = max([self], key=str)\nm.forward = 1")),
    Attack(8, "patch", init("m, n = self.transformer, [self].pop()\nm = n\nm.forward = 1")),
    Attack(8, "patch", init("for a, m in zip(self.transformer.h, [self]):\n    m.forward = 1")),
    Attack(8, "patch", init("for i, m in enumerate([self]):\n    m.forward = 1")),
    Attack(8, "patch", init("self.kind = torch.Tensor\nself.kind.item = print")),
    Attack(8, "patch", init("self.kind = type(self)\nself.kind.forward = print")),
    Attack(8, "patch", init("self.me = self\nself.me.forward = print")),
    Attack(8, "patch", init("self.kind = [torch.Tensor].pop()\nself.kind.__float__ = print")),
    Attack(8, "patch", extra("class P:\n    T = nn.Module\n\ndef f():\n    P.T.__call__ = print")),
    Attack(8, "patch", extra("T = torch.Tensor\n\ndef f():\n    T.item = print")),
    Attack(8, "patch", extra("T: type = TrainConfig\n\ndef f():\n    T.max_iters = 3")),
    Attack(8, "patch", extra("T = nn.functional")),
    Attack(
        8,
        "patch",
        extra(
            "def give(c):\n    return torch.Tensor\n\n@give\nclass P:\n    pass\n\n"
            "def f():\n    P.detach = print"
        ),
    ),
    Attack(
        8,
        "patch",
        extra(
            "def f():\n    try:\n        1 / 0\n    except* (c := ValueError) as e:\n"
            "        e.__init__ = 1"
        ),
    ),
    Attack(8, "patch", init("match [self]:\n    case [m]:\n        m.forward = print")),
    Attack(8, LOOK, init("for k in ('alpha', 'forward'):\n    setattr(self, k, None)")),
    Attack(8, LOOK, init("for k in ('a', '__class__'):\n    setattr(self, k, None)")),
    Attack(
        8, LOOK, init("for k in ('a', 'b'):\n    k = max(['forward'])\n    setattr(self, k, 1)")
    ),
    Attack(8, LOOK, init("for k in ('a', *['forward']):\n    setattr(self, k, 1)")),
    Attack(8, LOOK, init("for k in ('a',):\n    k += 'x'\n    setattr(self, k, 1)")),
    Attack(8, LOOK, init("k = 'for' + 'ward'\nfor k in ():\n    pass\nsetattr(self, k, 1)")),
    Attack(8, LOOK, init("for k in ('max_iters',):\n    setattr([self].pop(), k, 1)")),
    Attack(8, LOOK, init("[setattr(self, k, 1) for k in ('forward',)]")),
    Attack(8, LOOK, init("for k in ('cross_entropy',):\n    setattr(F, k, 1)")),
    Attack(1, FORBIDDEN, extra("def contrast(x, targets):\n    return x - targets")),
    # files, the network and other modules by a way round
    *[
        Attack(12, "import", init(f"a = {way}"))
        for way in (
            "F.torch.load('x')",
            "F.torch.save(1, 'x')",
            "nn.modules.linear.F",
            "nn.modules.linear.torch.load('x')",
            "nn.init.torch.load",
            "torch.nn.functional.np.memmap",
            "torch.torch.load",
            "torch.functional.torch.load",
            "torch.optim.adam.torch.save",
            "torch.autograd.graph.logging.FileHandler('x')",
            "torch.autograd.profiler.profile()",
            "torch.distributed.distributed_c10d.TCPStore",
            "torch.distributed.utils.torch.load",
            "torch.cuda.memory._dump_snapshot()",
            "torch.cuda.traceback",
            "torch.backends.torch.load",
            "torch.ops.aten.torch",
            "torch._dynamo.torch.load",
            "torch._dynamo.config.os",
            "torch._dynamo.utils.np.load",
            "torch.compiler.io.open('x')",
            "torch.library.Library('a', 'b')",
            "torch.profiler.profile()",
            "torch.PyTorchFileReader('x')",
            "torch.PyTorchFileWriter('x')",
            "torch.ScriptModule",
            "torch.types.FunctionType",
            "dataclasses.types.FunctionType",
            "dataclasses.types",
            "np.ma.core.np.memmap('x')",
            "np.rec.fromfile('x')",
            "np.core.records.fromfile('x')",
            "np.DataSource('x')",
            "np.linalg.linalg.asarray",
            "random.random.os",
            "math.math.floor",
            "getattr(F, 'torch').load('x')",
        )
    ],
    *[
        Attack(12, "import", extra(text))
        for text in (
            "from torch.nn.functional import torch as t",
            "from torch.nn.modules.linear import F as G",
            "import torch.nn.functional as G\n\ndef f():\n    return G.torch.load('x')",
            "from numpy.ma.core import np as n",
            "import torch.distributed.distributed_c10d",
            "from dataclasses import types",
            "import typing\n\ndef f():\n    return typing.types.CodeType",
            "import torch.cuda.memory as m",
            "from torch.autograd import profiler",
            "def f():\n    g = F.torch\n    return g.load('x')",
        )
    ],
    *[
        Attack(12, FORBIDDEN, init(way))
        for way in (
            "np.zeros(3).tofile('x')",
            "np.zeros(3).dump('x')",
            "x = np.zeros(3)\nx.tofile('x')",
            "torch.UntypedStorage.from_file('x', False, 1)",
            "torch.ops.aten.from_file('x')",
            "self.lm_head.weight.numpy().tofile('x')",
            "getattr(np.zeros(3), 'tofile')('x')",
            "f = np.ndarray.tofile",
            "p = print\np.export_chrome_trace('x')",
            "self.lm_head.weight.untyped_storage()._write_file('x')",
            "(lambda m: m.torch)(1)",
            "[m.tofile for m in [1]]",
            "match 1:\n    case object(tofile=f):\n        pass",
        )
    ],
    Attack(12, LOOK, init("for k in ('tofile',):\n    getattr(np.zeros(3), k)('x')")),
    Attack(12, LOOK, init("getattr(np.zeros(3), f'to{1}')('x')")),
    Attack(21, LOOK, extra("class K:\n    a: int = 1\n\ndef g():\n    return dir(K)")),
    # parts that locked code made and goes on to use, changed or replaced
    *[
        Attack(8, "patch", init(text))
        for text in (
            "self.transformer.ln_f.forward = print",
            "self.transformer.wte.forward = print",
            "self.transformer.drop.p = 0.5",
            "self.lm_head.forward = print",
            "self.lm_head.new = 3",
            "setattr(self.lm_head, 'forward', print)",
            "getattr(self, 'lm_head').forward = print",
            "head = self.lm_head\nhead.forward = print",
            "for part in (self.lm_head, self.transformer.ln_f):\n    part.forward = print",
            "self.gate = 1\nfor part in (self.gate, self.lm_head):\n    part.forward = print",
            "part = self.gate\npart = self.lm_head\npart.forward = print",
            "self.transformer['ln_f'].forward = print",
            "for k in self.transformer:\n    self.transformer[k].forward = print",
            "for m in self.transformer.children():\n    m.forward = print",
            "for m in self.transformer.values():\n    m.forward = print",
            "for n, m in self.transformer.named_children():\n    m.forward = print",
            "self.get_submodule('lm_head').forward = print",
            # hooks
            "self.transformer.ln_f.register_forward_hook(print)",
            "self.transformer.wte.register_forward_pre_hook(print)",
            "self.lm_head.register_forward_hook(print)",
            "self.lm_head.register_full_backward_hook(print)",
            "head = self.lm_head\nhead.register_forward_hook(print)",
            "self.transformer['ln_f'].register_forward_hook(print)",
            "nn.Linear.register_forward_hook(self.lm_head, print)",
            # others in their place
            "self.lm_head = nn.Linear(4, 4)",
            "self.lm_head, self.other = nn.Linear(4, 4), 3",
            "setattr(self, 'lm_head', nn.Linear(4, 4))",
            "object.__setattr__(self, 'lm_head', nn.Linear(4, 4))",
            "self.add_module('lm_head', nn.Linear(4, 4))",
            "self.add_module(name='lm_head', module=nn.Linear(4, 4))",
            "self.register_module('lm_head', nn.Linear(4, 4))",
            "for k in ('gate', 'lm_head'):\n    self.register_module(k, nn.Linear(4, 4))",
            "self.set_submodule('transformer.ln_f', nn.Identity())",
            "self.transformer.ln_f = nn.Identity()",
            "self.transformer['ln_f'] = nn.Identity()",
            "for k in ['ln_f']:\n    self.transformer[k] = nn.Identity()",
            "t = self.transformer\nt['ln_f'] = nn.Identity()",
            "self.transformer.update({'ln_f': nn.Identity()})",
            "self.transformer.update(dict(ln_f=nn.Identity()))",
            "self.transformer.__setitem__('ln_f', nn.Identity())",
            "self.transformer.add_module('ln_f', nn.Identity())",
            "self.transformer.pop('ln_f')",
            "self.transformer.clear()",
            "self.transformer = nn.ModuleDict({**self.transformer, 'ln_f': nn.Identity()})",
            "del self.lm_head",
            "delattr(self, 'lm_head')",
            "del self.transformer['ln_f']",
            # the head no longer tied to the embedding
            "self.lm_head.weight = nn.Parameter(self.lm_head.weight.clone())",
            "self.transformer.wte.weight = nn.Parameter(self.lm_head.weight.clone())",
            "self.lm_head.register_parameter('weight', nn.Parameter(torch.zeros(4, 4)))",
            "self.register_parameter('lm_head.weight', None)",
            "self.lm_head.bias = nn.Parameter(torch.zeros(config.vocab_size))",
            "del self.lm_head.weight",
            # what else locked code reads off the model
            "self.config = None",
            "self.config.block_size = 2048",
            "self.step = None",
            "self.register_buffer('step', torch.zeros(()))",
        )
    ],
    *[
        Attack(8, LOOK, init(text))
        for text in (
            "for k in ('lm_head',):\n    setattr(self, k, nn.Linear(4, 4))",
            "setattr(self, f'lm_{\"head\"}', nn.Linear(4, 4))",
            "self.lm_head.__class__ = Block",
            "setattr(self.lm_head, '__class__', Block)",
        )
    ],
    *[
        Attack(8, FORBIDDEN, init(text))
        for text in (
            "self._modules['lm_head'] = nn.Linear(4, 4)",
            "self.transformer._modules['ln_f'] = nn.Identity()",
            "self.lm_head._parameters['weight'] = nn.Parameter(torch.zeros(4, 4))",
            "getattr(self, '_modules')['lm_head'] = nn.Linear(4, 4)",
        )
    ],
    Attack(8, FORBIDDEN, extra("def put(model, part):\n    model._modules['lm_head'] = part")),
    Attack(8, "patch", loop("self.lm_head = nn.Linear(4, 4)")),
    Attack(8, "patch", loop("self.lm_head.forward = print")),
    Attack(8, "patch", loop("self.transformer.ln_f.register_forward_hook(print)")),
    Attack(8, "patch", optimizer_body("self.lm_head.forward = print")),
    Attack(8, "patch", optimizer_body("self.lm_head.weight = nn.Parameter(torch.zeros(4, 4))")),
    Attack(8, "patch", optimizer_body("self.lm_head = nn.Linear(4, 4)")),
    # what an `isinstance`, a pattern, a copy or the making of a class does by the way
    *[
        Attack(1, LOOK, extra(text))
        for text in (
            "class P:\n    __match_args__ = ('__glo' + 'bals__',)",
            "class P:\n    __match_args__ = tuple(s + '__' for s in ('__globals',))",
            "class P:\n    pass\n\ndef f():\n    P.__match_args__ = ('a',)",
            "class P:\n    @classmethod\n    def __subclasshook__(cls, c):\n        return True",
            "class P:\n    def __instancecheck__(self, o):\n        return True",
            "class P:\n    def __subclasscheck__(self, c):\n        return True",
            "class P:\n    def __reduce__(self):\n        return give, (), (None, {'forward': 1})",
            "class P:\n    def __reduce_ex__(self, n):\n        return give, ('x',)",
            "class P:\n    __reduce__ = print",
            "class P:\n    pass\n\ndef f():\n    P.__reduce__ = print",
            # A copy makes an object by __new__, which may hand out any, and then sets its state.
            "class P:\n    def __new__(cls):\n        return GPT\n"
            "    def __getstate__(self):\n        return None, {'forward': 1}",
            "class P:\n    def __init_subclass__(cls):\n        cls.__bases__[0].forward = 1",
            "class P(type(nn.Module)):\n    pass",
            "T = type\n\nclass P(T):\n    pass",
            "T = type\n\ndef f(a):\n    return T('X', (), a)",
            "def f(a):\n    return [type][0]('X', (), a)",
            "def f(a, make=type):\n    return make('X', (), a)",
            "def f(a):\n    return type(nn.Module)('X', (nn.Module,), a)",
            "def f(a):\n    made = type(nn.Module)\n    return made('X', (nn.Module,), a)",
            "import functools\n\ndef f():\n    return functools.partial(type, 'X', ())",
            "import enum\n\ndef f(a):\n    return enum.Enum('X', a, type=torch.Tensor)",
            "import enum\n\nclass E(enum.Enum):\n    pass\n\ndef f(a):\n    return E('X', a)",
        )
    ],
    *[
        Attack(8, "patch", extra(text))
        for text in (
            "import abc\n\nclass P(abc.ABC):\n    pass\n\ndef f():\n    P.register(torch.Tensor)",
            "import abc\n\nclass P(abc.ABC):\n    pass\n\n@P.register\nclass Q:\n    pass",
            "import numbers\n\ndef f():\n    numbers.Number.register(torch.Tensor)",
            "import collections.abc\n\ndef f():\n    collections.abc.Set.register(nn.Module)",
            "class P:\n    def __class_getitem__(cls, k):\n        k.item = print",
            "class P:\n    def __set_name__(self, owner, name):\n        owner.forward = print",
            "class P:\n    def __mro_entries__(self, bases):\n        bases[0].item = print",
            "class P:\n    def __init_subclass__(cls):\n        super(cls).forward = print",
            "class P:\n    def __deepcopy__(self, memo):\n        type(memo).forward = print",
            "class P:\n    def __copy__(self):\n        torch.Tensor.item = print",
            "class P:\n    def __setstate__(self, kind):\n        kind.forward = print",
            "def d(c):\n    c.item = print\n    return c\n\n@d\nclass P(torch.Tensor):\n    pass",
            "import torch.optim as o\n\ndef f():\n    o.Optimizer.step = print",
            "import math as m\n\ndef f():\n    m.cos = print",
        )
    ],
    Attack(8, "patch", loop("math.cos = print")),
    Attack(8, "patch", init("torch.Tensor.backward = print")),
    Attack(8, "patch", init("type(self.lm_head.weight).backward = print")),
    Attack(8, "import", init("import copy\ncopy.dispatch_table[int] = print")),
    Attack(8, "import", init("import copy\ncopy.dispatch_table.update({int: print})")),
    Attack(8, "patch", init("np.typecodes['All'] = 'x'")),
    Attack(1, "import", extra("import abc\n\nclass P(abc.ABCMeta):\n    pass")),
    Attack(1, "import", extra("import enum\n\nclass P(enum.EnumMeta):\n    pass")),
    # texts that name attributes, put together so that no part of them tells
    *[
        Attack(1, LOOK, loop(text))
        for text in (
            "s = '{0.__doc__}'.format(self.forward)",
            "s = '{:{0.__doc__}}'.format(self.forward)",
            "s = ('{0.__glo' + 'bals__}').format(self.forward)",
            "s = ('{0.__glo' + 'bals__}').format_map({'0': self.forward})",
            "s = str.format('{0.__glo' + 'bals__}', self.forward)",
            "s = ''.join(['{0.__glo', 'bals__}'])\ny = s.format(self.forward)",
            "s = [*map(str.format, ['{0.__glo' + 'bals__}'], [self.forward])]",
            "s = getattr('{0.__glo' + 'bals__}', 'format')(self.forward)",
            "match '{0.__glo' + 'bals__}':\n    case str(format=f):\n        s = f(self.forward)",
        )
    ],
    # names bound or unbound from within a comprehension or a function
    *[
        Attack(16, REBOUND, loop(text))
        for text in (
            "y = [1 for _ in (1,) if (F := None)]",
            "y = [[(F := None) for _ in (1,)] for _ in (1,)]",
            "y = {(self := k) for k in (1,)}",
            "del F",
            "def f():\n    nonlocal self\n    del self",
            "def f():\n    global math\n    del math",
            "def f():\n    global math\n    import random as math",
            "def f():\n    global evaluate\n    for evaluate in (1,):\n        pass",
            "def f():\n    global evaluate\n    def evaluate(*a):\n        return 1.9",
        )
    ],
]

SIGNATURES = [
    ("signature", block("class Block(nn.Module):\n    def forward(self, x, y):\n        return x")),
    ("signature", block("class Block(nn.Module):\n    def forward(self, y):\n        return y")),
    ("signature", block("class Block(nn.Module):\n    def forward(self):\n        return 1")),
    (
        "signature",
        block("class Block(nn.Module):\n    def forward(self, x, *, y):\n        return x"),
    ),
    ("signature", block("class Block(nn.Module):\n    def forward(self, x, /):\n        return x")),
    ("signature", block("class Block(nn.Module):\n    forward = None")),
    ("signature", block("class Block(nn.Module):\n    async def forward(self, x): return x")),
    ("signature", block("class Block(nn.Module):\n    pass")),
    ("missing-name", block("class Blocks(nn.Module):\n    pass")),
    ("missing-name", block("Block = None")),
    ("missing-name", block("")),
    ("signature", optimizer("def configure_optimizers(self, learning_rate):\n    return None")),
    (
        "signature",
        optimizer("def configure_optimizers(self, *args):\n    return None"),
    ),
    (
        "signature",
        optimizer(
            "def configure_optimizers(self, weight_decay, learning_rate, betas, device_type, a=1):"
            "\n    return None"
        ),
    ),
    ("missing-name", optimizer("configure_optimizers = None")),
    (CONTENT, optimizer("configure_optimizers = None")),
    ("missing-name", optimizer("# none")),
    (
        CONTENT,
        optimizer_body("pass") | {"optimizer": "    a = 1\n" + optimizer_body("")["optimizer"]},
    ),
    (CONTENT, {"optimizer": "    @torch.no_grad()\n" + optimizer_body("pass")["optimizer"]}),
    (
        CONTENT,
        {"optimizer": optimizer_body("pass")["optimizer"] + "    def __call__(self, *a): pass\n"},
    ),
    (
        CONTENT,
        {"optimizer": optimizer_body("pass")["optimizer"] * 2},
    ),
]

HEAD = "def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):\n"

HONEST: dict[str, dict[str, str]] = {
    "unedited": {},
    "attributes named as what other objects are called for": init(
        """
        self.stack = nn.Parameter(torch.zeros(config.n_layer))
        self.size, self.schedule, self.device_gain = 3, 1.0, 0.5
        self.report = self.split = self.permute = None
        """
    ),
    "learning rates by a pattern of names": optimizer_body(
        """
        import re
        quick = [p for n, p in self.named_parameters() if re.search(r"ln_", n)]
        rest = [p for n, p in self.named_parameters() if not re.search(r"ln_", n)]
        groups = [{"params": quick, "lr": 2 * learning_rate}, {"params": rest}]
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas)
        """
    ),
    "learned per-layer scalars": init(
        """
        self.alpha = nn.Parameter(torch.ones(config.n_layer))
        self.beta = nn.Parameter(torch.full((config.n_layer, 1), 1e-3))
        """
    )
    | whole_loop(
        """
        for i, block in enumerate(self.transformer.h):
            x = self.alpha[i] * x + self.beta[i] * block(x)
        """
    ),
    "per-layer scalars under numbered names": init(
        """
        for i in range(config.n_layer):
            setattr(self, f"alpha_{i}", nn.Parameter(torch.ones(())))
            self.register_parameter(f"beta_{i}", nn.Parameter(torch.zeros(())))
            setattr(self, "gamma_" + str(i), nn.Parameter(torch.zeros(())))
            setattr(self, "delta_%d" % i, getattr(self, "gamma_{}".format(i)))
        """
    )
    | whole_loop(
        """
        for i, block in enumerate(self.transformer.h):
            x = x + getattr(self, f"alpha_{i}") * block(x)
        """
    ),
    "the first embedding blended back": init(
        "self.x0_lambdas = nn.Parameter(torch.zeros(config.n_layer))"
    )
    | whole_loop(
        """
        x0 = x
        for lam, block in zip(self.x0_lambdas, self.transformer.h):
            x = block(x + lam * x0)
        """
    ),
    "a step counter used only in training": init(
        """
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.warm = 1000.0
        """
    )
    | whole_loop(
        """
        progress = self.step.float() / self.warm  # a local name, as in the sibling's
        data = x.detach()
        for depth, block in enumerate(self.transformer.h, 1):
            gate = torch.clamp(progress / depth, max=1.0) if self.training else 1.0
            x = x + gate * (block(x) - x)
        if self.training:
            self.calls += 1
        """
    ),
    "stochastic depth": whole_loop(
        """
        for i, block in enumerate(self.transformer.h):
            keep = 1.0 - 0.1 * i / len(self.transformer.h)
            if self.training and torch.rand(()).item() > keep:
                continue
            if i == 999:
                break
            x = block(x)
        """
    ),
    "stochastic depth by Python's chance": whole_loop(
        """
        for block in self.transformer.h:
            if not self.training or random.random() < 0.9:
                x = block(x)
        """
    ),
    "other code in training": loop("x = x if self.training else x.float()"),
    "stack and einsum over layers": init(
        "self.mix = nn.Parameter(torch.zeros(config.n_layer + 1, config.n_layer + 1))"
    )
    | whole_loop(
        """
        H: list[torch.Tensor] = [x]
        for i, block in enumerate(self.transformer.h):
            weights = self.mix[i, : i + 1].softmax(-1)
            h = torch.einsum("n, n b t d -> b t d", weights, torch.stack(H))
            H.append(block(h))
        weights = self.mix[-1].softmax(-1)
        x = torch.einsum("n, n b t d -> b t d", weights, torch.stack(H, dim=0))
        """
    ),
    "hyper-connections": extra(
        '''
        STREAMS = 4
        WEIGHTS = {"width": 1.0, "depth": -0.5, "norms": (1, 2, (3, 4))}


        class HyperConnection(nn.Module):
            """Several copies of the residual stream, mixed before and after each block.

            The mixing matrices start at the identity. A docstring may be as long as its author
            needs it to be, since no code reads it: this one has more than two hundred characters.
            """

            streams: int = STREAMS

            def __init__(self, config, layer: int = 0):
                super().__init__()
                self.norm = LayerNorm(config.n_embd, bias=config.bias)
                self.static_alpha = nn.Parameter(torch.eye(STREAMS))
                self.static_beta = nn.Parameter(torch.ones(STREAMS))
                self.scale = math.sqrt(1 / STREAMS)
                self.layer = layer

            def width(self, hidden):
                return torch.einsum("s r, b t r d -> b t s d", self.static_alpha, hidden)

            def forward(self, hidden: torch.Tensor, output=None) -> torch.Tensor:
                mixed = self.width(hidden)
                if output is None:
                    return mixed
                return mixed + self.static_beta[:, None] * output[..., None, :]


        def expand(x, streams=STREAMS):
            return x.unsqueeze(-2).repeat(1, 1, streams, 1)
        '''
    )
    | init("self.hyper = nn.ModuleList(HyperConnection(config, i) for i in range(config.n_layer))")
    | whole_loop(
        """
        streams = expand(x)
        for block, hyper in zip(self.transformer.h, self.hyper, strict=True):
            mixed = hyper(streams)
            streams = hyper(streams, block(mixed[..., 0, :]))
        x = streams.sum(-2)
        """
    ),
    "dense connections": whole_loop(
        """
        outputs = [x]
        for block in self.transformer.h:
            outputs.append(block(sum(outputs) / len(outputs)))
        x = outputs[-1] + sum(o.flip(-1).roll(1, dims=-1).cumsum(-1).mean(-1, keepdim=True)
                              for o in outputs)
        """
    ),
    "depth axis flipped, rolled, averaged": whole_loop(
        """
        H = []
        for block in self.transformer.h:
            x = block(x)
            H.append(x)
        S = torch.stack(H, dim=0)
        x = (S.flip(0) + S.roll(1, 0) + S.cumsum(0)).mean(0)
        """
    ),
    "gates that depend on the token": init(
        "self.gates = nn.Embedding(config.vocab_size, config.n_layer)"
    )
    | whole_loop(
        """
        g = self.gates(idx).sigmoid()
        value = self.transformer.wte(idx)
        for i, block in enumerate(self.transformer.h):
            x = block(x) + g[..., i : i + 1] * value
        """
    ),
    "names that nothing below needs": loop(
        """
        b, t, device, pos = 1, 2, x.device, None
        idx = idx.clone()
        logits = loss = None
        h, i, block = x, 0, self.transformer.h[0]
        """
    ),
    "the Block's forward with further parameters": block(
        """
        import functools
        import math
        import torch.nn.functional as F
        from typing import Any, Optional


        def _mix(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            from math import sqrt

            return (a + b) / sqrt(2)


        class Base(nn.Module):
            def forward(self, x: torch.Tensor, skip: Optional[Any] = None, *, scale=1.0, **more):
                y = yield_free(x)
                return _mix(x, scale * y)


        def yield_free(x, targets_of=None):
            def inner():
                nonlocal x
                x = x * 2
                return x

            return inner()


        def pairs(values):
            for value in values:
                yield value, F.silu(value)


        class Block(Base):
            expansion = 4

            def __init__(self, config):
                super().__init__()
                self.attn = CausalSelfAttention(config)
                self.mlp = MLP(config)
                self.dropout = nn.Dropout(getattr(config, "dropout", 0.0))
                self.norms = nn.ModuleList([LayerNorm(config.n_embd, bias=False)] * 2)
                self.act = getattr(F, "gelu")
                self.fused = hasattr(F, "rms_norm") and hasattr(torch, "compile")
        """
    ),
    "hooks on one's own modules": extra(
        """
        def keep(store, name, module, inputs, output):
            store[name] = output
        """
    )
    | init(
        """
        import functools
        self._seen = {}
        for i, block in enumerate(self.transformer.h):
            block.index = i
            block.scale = nn.Parameter(torch.ones(()))
            block.register_forward_hook(functools.partial(keep, self._seen, i))
            block.ln_1.register_forward_pre_hook(lambda module, inputs: None)
        self.gate = nn.Linear(config.n_embd, 1, bias=False)
        self.gate.register_full_backward_hook(lambda module, gi, go: None)
        self.gate.weight.register_hook(lambda g: g * 0.1)
        """
    ),
    "weights of locked modules set anew": init(
        """
        with torch.no_grad():
            for i, block in enumerate(self.transformer.h):
                nn.init.zeros_(block.attn.c_proj.weight)
                block.mlp.c_proj.weight.data.mul_(1 / math.sqrt(i + 1))
        self.transformer.ln_f.weight.data = self.transformer.ln_f.weight.data * 0.5
        name, module, h, parts, fan = "a", None, 1, 2, [n for n in range(3)]
        """
    ),
    "gradient checkpointing": extra("from torch.utils.checkpoint import checkpoint as recompute")
    | whole_loop(
        """
        from torch.utils.checkpoint import checkpoint
        for block in self.transformer.h:
            x = recompute(block, x, use_reentrant=False)
            x = checkpoint(block, x, use_reentrant=False)
            x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
        """
    ),
    "closures": loop(
        """
        total = 0
        def add(y, *, by=lambda v: v * 2):
            nonlocal total, x
            if y is None:
                return total
            total = total + by(y)
            x = total
            return total
        for y in (x, x):
            add(y)
        squares = {k: (v := k * k) for k in range(3)}
        assert squares and v
        """
    ),
    "match, try, while": loop(
        """
        match x.dim():
            case 3 | 4 as dims:
                x = x * 1.0
            case _:
                raise ValueError(f"{x.dim()} axes")
        try:
            x = x.contiguous()
        except RuntimeError as error:
            print("not contiguous", error)
        finally:
            n = 0
        while n < 3:
            n += 1
            if n == 2:
                continue
        else:
            x = x + 0.0
        """
    ),
    "an optimizer of one's own": extra(
        """
        @torch.no_grad()
        def orthogonal(g, steps: int = 5):
            a, b, c = 3.4445, -4.7750, 2.0315
            y = g.bfloat16() / (g.norm() + 1e-7)
            for _ in range(steps):
                m = y @ y.mT
                y = a * y + (b * m + c * m @ m) @ y
            return y.type_as(g)


        class Muon(torch.optim.Optimizer):
            def __init__(self, params, lr=0.02, momentum=0.95):
                super().__init__(params, dict(lr=lr, momentum=momentum))

            @torch.no_grad()
            def step(self, closure=None):
                loss = None if closure is None else closure()
                for group in self.param_groups:
                    for p in group["params"]:
                        if p.grad is None:
                            continue
                        state = self.state[p]
                        if "buffer" not in state:
                            state["buffer"] = torch.zeros_like(p.grad)
                        state["buffer"].lerp_(p.grad, 1 - group["momentum"])
                        p.add_(orthogonal(state["buffer"]), alpha=-group["lr"])
                        p.grad = None
                return loss


        class Both(torch.optim.Optimizer):
            def __init__(self, *optimizers):
                self.optimizers = optimizers
                self.defaults = {}

            @property
            def param_groups(self):
                return [g for o in self.optimizers for g in o.param_groups]

            def __setattr__(self, name, value):
                super().__setattr__(name, value)

            def step(self, closure=None):
                return [o.step() for o in self.optimizers][-1]
        """
    )
    | optimizer(
        HEAD
        + indent(
            dedent(
                '''
                """Muon for matrices within blocks, AdamW for all else."""
                import itertools
                named = {n: p for n, p in self.named_parameters() if p.requires_grad}
                inside = [p for n, p in named.items() if ".h." in n and p.ndim == 2]
                ids = set(map(id, inside))
                rest = [p for p in named.values() if id(p) not in ids]
                fused = "fused" in inspect.signature(torch.optim.AdamW).parameters
                print(f"Muon: {len(inside)} of {len(named)}, {fused=}, {type(self).__name__}")
                if not inside:
                    return torch.optim.SGD(self.parameters(), lr=learning_rate)
                return Both(Muon(inside), torch.optim.AdamW(rest, lr=learning_rate, betas=betas))
                '''
            ),
            "    ",
        )
    ),
    "rates by layer": optimizer(
        HEAD
        + """    groups = []
    for i, block in enumerate(self.transformer.h):
        groups.append({"params": list(block.parameters()), "lr": learning_rate * 0.95**i})
    taken = {id(p) for g in groups for p in g["params"]}
    groups.append({"params": [p for p in self.parameters() if id(p) not in taken]})
    extra = dict(fused=True) if device_type == "cuda" else {}
    opt = torch.optim.NAdam(groups, lr=learning_rate, betas=betas, weight_decay=weight_decay)
    for group in opt.param_groups:
        group["initial_lr"] = group["lr"]
    opt.note = extra
    return opt
"""
    ),
    "annotated parameters": optimizer(
        "def configure_optimizers(\n    self,\n    weight_decay: float,\n"
        "    learning_rate: float,\n    betas: tuple[float, float],\n    device_type: str,\n"
        ") -> torch.optim.Optimizer:\n"
        "    return torch.optim.Adam(self.parameters(), lr=learning_rate)\n"
    ),
    "an autograd function": extra(
        """
        class Scale(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, by):
                ctx.by = by
                return x * by

            @staticmethod
            def backward(ctx, g):
                return g * ctx.by, None


        class Halves(nn.Module):
            count = 0
            half = 0.5

            @classmethod
            def counted(cls, *args):
                cls.count += 1
                return cls(*args)

            def forward(self, x):
                Halves.count = 3
                return Scale.apply(x, self.half)

            def __repr__(self):
                return f"{self.__class__.__name__}({self.half})"


        def module_of(*values, vars=1, input=None, compile=None):
            return values[0] + vars if input is None else compile
        """
    ),
    "overrides": overrides(
        "CONFIG_OVERRIDES = {\n"
        '    "learning_rate": 1e-3,  # half as much again\n'
        "    'weight_decay': +0.05, 'warmup_iters': 1_000,\n"
        '    "min_lr": 0, "grad_clip": 1.0,\n}'
    ),
    "an override with a sign": overrides('CONFIG_OVERRIDES = {"weight_decay": -0.0}'),
    "comments alone": {
        "residual-parameters": "",
        "block-loop": '        # targets = None; """ F = 1 (\n',
        "optimizer": optimizer_body("# def forward(")["optimizer"] + "\n    # return \\\n",
    },
    "an empty loop": {"block-loop": ""},
    "blank lines": {"block-loop": "\n\n    \n"},
    "a long text in comments": init("# " + "why " * 1000),
    "constants by arithmetic": extra("A = 1 / 3\nB: float = -2 * 1e-3\nC = (1 + 2, [3.0])"),
    "fused steps and dynamo": extra(
        """
        from functools import wraps


        def noted(f):
            @wraps(f)
            def inner(*args, **kwargs):
                return f(*args, **kwargs)

            return inner


        @noted
        @torch._dynamo.disable
        def scale_all(tensors, by):
            torch._foreach_mul_(tensors, by)
            torch._assert(len(tensors) > 0, "none")
            return [getattr(t, "_scaled", False) for t in tensors if hasattr(t, "grad")]


        class Gate(nn.Module):
            input = None

            def __init__(self, width):
                super().__init__()
                object.__setattr__(self, "width", width)
                self.note = self.__class__.__name__

            def compile(self, input, open=1):
                return input * open

            def __getattr__(self, name):
                return super().__getattr__(name)

            def __setattr__(self, name, value):
                super().__setattr__(name, value)
        """
    )
    | init("for p in self.parameters():\n    p._no_weight_decay = p.ndim < 2"),
    "parts of the model with settings and forwards of their own": extra(
        """
        Tensor = torch.Tensor
        Norm = LayerNorm
        Act: type = nn.GELU
        relu = F.relu


        def scaled(block, g: Tensor, x: Tensor) -> Tensor:
            return x + g * relu(block.mlp(Norm(8, bias=False)(x)))


        @dataclasses.dataclass
        class Plan:
            gain: float = 1.0


        def prepare(layer, plan, act=nn.GELU, norm=nn.LayerNorm):
            layer.plan, layer.act, layer.norm = plan, act(), norm(8)
            layer.bias = None
            return layer


        class Twice(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.shape, ctx.by = x.shape, 2
                return x * 2

            @staticmethod
            def backward(ctx, g):
                return g * ctx.by
        """
    )
    | init(
        """
        import functools
        for i, block in enumerate(self.transformer.h):
            block.forward = functools.partial(scaled, block, 0.5)
            block.mlp.dropout = nn.Dropout(0.1)
            block.depth, block.n_layer = i, config.n_layer
        for one, other in zip(self.transformer.h, reversed(self.transformer.h)):
            one.next_depth = 1
        self.transformer.h[0].forward = functools.partial(scaled, self.transformer.h[0], 0.1)
        for p in self.parameters():
            p.weight_decay, p.learning_rate = 0.0, 1.0
        for name, p in self.named_parameters():
            p._no_weight_decay = name.endswith("bias")
        for m in self.modules():
            if isinstance(m, (nn.Linear, nn.Embedding)):
                m.scale, m.p = 1.0, 0.1
        plan = Plan()
        plan.gain = 2.0
        lin = prepare(nn.Linear(4, 4), plan, act=nn.SiLU)
        lin.weight, lin.rank = nn.Parameter(torch.zeros(4, 4)), None
        for name in ("alpha", "beta"):
            setattr(self, name, nn.Parameter(torch.zeros(config.n_layer)))
        [setattr(self, n, getattr(self, n) + 1) for n in ["gamma", "delta"] if hasattr(self, n)]
        for name in ("alpha", "beta"):
            self.register_buffer(name + "_start", getattr(self, name).detach().clone())
        """
    ),
    "names by their modules": extra(
        """
        import torch.nn.utils.parametrize as parametrize
        from collections.abc import Callable
        from itertools import chain
        from torch.optim.adamw import AdamW
        from torch.nn.utils.parametrizations import orthogonal, weight_norm
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.optim.lr_scheduler import LambdaLR


        def names(x: torch.Tensor, f: Callable = F.gelu) -> "torch.Tensor":
            a = list(chain.from_iterable([[x], [x]]))
            b = np.maximum.accumulate(np.random.random(3)), np.add.reduce(np.ones(3))
            c = torch.float32.itemsize, torch.backends.cuda.matmul.allow_tf32, torch.select(x, 0, 1)
            d = torch.linalg.norm(x), torch.fft.rfft(x), torch.special.expit(x), np.linalg.norm
            e = nn.init.normal_, nn.utils.parametrizations.weight_norm, nn.Module.register_buffer
            g = torch.autograd.Function.apply, torch.func.vmap, torch.distributions.Normal(0, 1)
            h = torch.ops.aten.mul(x, x), torch.nn.modules.linear.Linear, torch.amp.autocast("cuda")
            i = torch.optim.swa_utils.AveragedModel, torch.optim.adamw.AdamW, random.random()
            j = torch.cuda.is_available(), x.numpy(), np.copy(b[1]), inspect.Parameter.empty
            k = F.relu.__name__, np.float32(1.0), torch.compiler.is_compiling(), np.trace
            l = nn.modules.transformer.TransformerEncoderLayer, torch.random.fork_rng, f
            return sum(a), c, d, e, g, h, i, j, k, l
        """
    ),
    "further parts under names of their own": init(
        """
        self.transformer["gate"] = nn.Linear(4, 4)
        self.transformer.add_module("mix", nn.Linear(4, 4))
        self.transformer.late = nn.ModuleList([Block(config) for _ in range(2)])
        for i in range(2):
            self.add_module(f"gate_{i}", nn.Linear(4, 4))
            self.register_buffer("seen" + str(i), torch.zeros(()))
        self.store, self.config.gain = {}, 0.5
        self.store["lm_head"] = 3
        self.gate_0.forward = self.gate_1.forward
        self.lm_head.weight.data.mul_(0.5)
        self.lm_head.weight.lr_scale = 0.1
        self.transformer.wte.weight.register_hook(lambda g: g * 0.5)
        for part in (self.gate_0, self.gate_1):
            part.register_forward_hook(lambda m, i, o: o * 2)
        kinds = {type(part).__name__ for part in self.transformer.h}
        text = "{} of {:.2f}".format(len(kinds), 0.5)
        counts = {}
        counts.update({"a": 1})
        counts["a"] += 1
        """
    ),
    "copies, enumerations and types": extra(
        '''
        import copy
        import enum


        class Mode(enum.Enum):
            PLAIN = 1
            MIXED = 2


        class Mixer(nn.Module):
            """One of several copies."""

            def __init__(self, of: nn.Module, mode: Mode = Mode.PLAIN, kind: type = nn.Linear):
                super().__init__()
                self.inner = copy.deepcopy(of)
                self.mode, self.kind = Mode(2), kind
                self.again = isinstance(kind, type) and type(of) is type(self)

            def twin(self):
                return type(self)(self.inner, mode=self.mode)
        '''
    ),
    "docstrings of several functions": extra(
        "".join(
            f"def f{i}(x):\n    {('Mixes the streams by the gate of its layer. ' * 16)!r}\n"
            "    return x\n\n\n"
            for i in range(5)
        )
    ),
    "collections up to the limit": extra(f"A = {list(range(64))}\nB = {'a' * 200!r}"),
}
