"""Names of Python's own that lead out of a region: to scopes, frames, code, source, files.

They are knowledge of the language and its standard library; what one task forbids besides stands
in its constraints.
"""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SCOPE_READERS = _words(
    "locals globals vars dir exec eval compile __import__ breakpoint open help exit quit input"
)
"""Builtins that hand out a scope, run text, or reach outside of the process."""

NAMED_ACCESS = frozenset({"getattr", "setattr", "delattr"})

INTROSPECTION = _words(
    """_getframe _current_frames currentframe f_locals f_globals f_builtins f_back f_code
    gi_frame gi_code gi_yieldfrom cr_frame cr_code cr_await ag_frame ag_code tb_frame tb_next
    cell_contents getsource getsourcelines getsourcefile getfile findsource getcomments getdoc
    getframeinfo getouterframes getinnerframes getclosurevars getmodule getmembers
    getmembers_static getattr_static get_type_hints get_annotations ForwardRef settrace setprofile
    getgeneratorlocals getcoroutinelocals getasyncgenlocals mro attrgetter methodcaller
    make_dataclass update_wrapper _call_impl _wrapped_call_impl _slow_forward func_globals"""
)
"""Attributes that lead from an object to scopes, code or source, or set others by text."""

HOOK_TABLES = re.compile(r"_(global_)?(forward|backward|state_dict)\w*_hooks\w*")
MODULE_HOOKS = re.compile(r"register_module_\w+")

ORDINARY_DUNDERS = frozenset(
    f"__{name}__"
    for name in _words(
        """init new post_init call name qualname class version len getitem setitem contains
        iter next add radd iadd sub rsub mul rmul imul truediv matmul rmatmul pow neg abs eq ne lt
        le gt ge hash repr str bool int float enter exit setattr"""
    )
)
"""Special methods that may be named anywhere."""

SUPER_DUNDERS = ORDINARY_DUNDERS | frozenset(
    f"__{name}__" for name in ("getattr", "delattr", "init_subclass", "setstate", "getstate")
)
"""Those that a class of the region may call on `super()` as well."""

INTERCEPTORS = frozenset(
    f"__{name}__"
    for name in _words(
        """torch_function torch_dispatch getattribute prepare match_args instancecheck
        subclasscheck subclasshook reduce reduce_ex getstate getnewargs getnewargs_ex"""
    )
)
"""Methods by which an object takes over what others do with it: which attributes a pattern reads,
what an `isinstance` says, what a copy calls and assigns."""

MUTATORS = _words("update pop popitem clear setdefault __setitem__ __delitem__")
"""Methods of Python's mappings that put something else in place of what they hold."""

ENUMS = "enum."
"""What begins so makes a class out of a text and a dict, if it is called with both."""

ANNOUNCES = "register"
"""The method by which an abstract class takes others for its own."""

FORMATS = frozenset({"format", "format_map"})
"""Methods of a text that read the attributes which it names: `"{0.name}".format(…)`."""

FIELD_ATTRIBUTE = re.compile(r"\.(\w+)")

TELLTALE = re.compile(
    r"__(globals|builtins|dict|code|closure|subclasses|mro|import|getattribute|traceback"
    r"|torch_function|torch_dispatch|class|self|func|bases)__"
    r"|\b(f_locals|f_globals|f_back|tb_frame|gi_frame|cr_frame|_getframe|cell_contents)\b"
)

OUTWARD_MODULES = _words(
    """os sys builtins importlib subprocess io pathlib shutil ctypes gc threading _thread pickle
    multiprocessing socket urllib http atexit tempfile glob marshal traceback linecache pdb runpy
    pkgutil asyncio concurrent faulthandler resource fcntl mmap shelve sqlite3 ssl zipfile tarfile
    inspect bltns posix thread types"""
)
"""Modules that others hold as attributes (`torch.os`, `random._os`)."""


def is_dunder(name: str) -> bool:
    return len(name) > 4 and name.startswith("__") and name.endswith("__")


def leads_out(attribute: str, *, on_super: bool = False) -> bool:
    """Whether reading an attribute of this name hands out more than a value of the object."""
    ordinary = SUPER_DUNDERS if on_super else ORDINARY_DUNDERS
    return bool(
        attribute in INTROSPECTION
        or (is_dunder(attribute) and attribute not in ordinary)
        or HOOK_TABLES.fullmatch(attribute)
        or MODULE_HOOKS.fullmatch(attribute)
    )
