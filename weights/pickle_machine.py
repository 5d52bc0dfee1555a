"""The few pickle opcodes that files of tensors use, run over bytes in memory within a budget.

Opcodes as in Python's ``pickletools``. Names lead to a table that the caller gives, never to an import.
"""

from __future__ import annotations

import pickletools
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

_LONGEST_LINE = 256
_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}


class Refused(Exception):  # noqa: N818 - becomes a CheckpointError once the file's path is known
    """Words that follow the file's path in the message."""


class Budget:
    """What is left of steps, and of bytes for tensors."""

    def __init__(self, steps: int, size: int):
        self.steps, self.size = steps, size

    def work(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise Refused("takes several times the steps of any network, so it is not read")

    def take(self, size: int) -> None:
        self.size -= size
        if self.size < 0:
            raise Refused("describes tensors larger than the file, so it is not read")


class Function:
    """What a name stands for: our function of (budget, *arguments). by_new: it may be made as an instance, too."""

    def __init__(self, make: Callable[..., Any], by_new: bool = False):
        self.make, self.by_new = make, by_new


class Unfinished:
    """A value that the file creates empty and fills later with a BUILD."""

    value: Any = None

    def build(self, budget: Budget, state: Any) -> None:
        """Fill from the state. ``value``, where set, then takes this object's place."""
        raise NotImplementedError


def key(value: Any) -> str | int:
    """The value, when it may be a key, or its text: others hash in exponential time (nested tuples) or collide at their
    writer's will, which text, that Python hashes with a secret, does not."""
    if type(value) is str or (type(value) is int and abs(value) < 1 << 31):
        return value
    if type(value) in (int, float, bool, type(None)):  # optimizers of old PyTorch number their tensors by address
        return str(value)
    raise Refused(f"has a {type(value).__name__} as a key, and networks have names")


class Machine:
    """Pickles that follow each other in ``data``; ``at`` is the position after the last one read.

    names: what ``module, name`` stands for; anything else is refused by name. persistent: turns a persistent id into a
    value, or None where there are no such.
    """

    def __init__(
        self,
        data: memoryview,
        budget: Budget,
        names: Mapping[tuple[str, str], Any],
        persistent: Callable[[Any], Any] | None = None,
    ):
        self.data, self.budget, self.names, self.persistent = data, budget, names, persistent
        self.at = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The next pickle's value. Raises Refused, and nearly anything where the bytes are damaged."""
        self.stack, self.marks, self.memo = [], [], {}
        while True:
            code = self.data[self.at]
            self.at += 1
            self.budget.work(1)
            if code == 0x2E:  # STOP
                return self._pop()
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise Refused(f"has {_described(code)}, which files of tensors do without, so it is not read")
            operation(self)

    def take(self, count: int) -> memoryview:
        """The next bytes, not copied."""
        if count > len(self.data) - self.at:
            raise Refused(
                f"says that {count} bytes follow where {len(self.data) - self.at} do: it is truncated or damaged"
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def _line(self) -> str:
        head = bytes(self.data[self.at : self.at + _LONGEST_LINE])
        text, end, _ = head.partition(b"\n")
        if not end:
            raise Refused(f"has a name of over {_LONGEST_LINE} letters or without an end: it is damaged")
        self.at += len(text) + 1
        return text.decode()

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _pop(self) -> Any:
        return self.stack.pop()

    def _since_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise Refused(f"adds to a {type(self.stack[-1]).__name__} as if it were a {kind.__name__}: it is not read")
        return self.stack[-1]

    def _named(self, module: Any, name: Any) -> None:
        if (type(module), type(name)) != (str, str) or (module, name) not in self.names:
            raise Refused(f"asks for {_printable(f'{module}.{name}')}, and only tensors are read")
        self._push(self.names[module, name])

    def _global(self) -> None:
        module = self._line()
        self._named(module, self._line())

    def _stack_global(self) -> None:
        name = self._pop()
        self._named(self._pop(), name)

    def _inst(self) -> None:
        asked = f"{self._line()}.{self._line()}"
        raise Refused(f"asks for {_printable(asked)}, and only tensors are read")

    def _call(self, arguments: Any, new: bool) -> None:
        function = self._pop()
        if type(function) is not Function or type(arguments) is not tuple or (new and not function.by_new):
            raise Refused(f"asks to call a {type(function).__name__}, and only tensors are read")
        self._push(function.make(self.budget, *arguments))

    def _build(self) -> None:
        state = self._pop()
        target = self.stack[-1]
        if isinstance(target, Unfinished):
            target.build(self.budget, state)
            self.stack[-1] = _finished(target)
        elif not (type(target) is dict and (state is None or _is_no_state(state))):
            raise Refused(f"sets attributes of a {type(target).__name__}, and only tensors are read")

    def _put(self, index: int) -> None:
        # Python's own reader makes a table as long as the index; a dict is as long as what was put.
        if index > _LARGEST_INDEX:
            raise Refused(f"numbers a value {index}, more than any network has: it is not read")
        self.memo[index] = self.stack[-1]

    def _get(self, index: int) -> None:
        self._push(_finished(self.memo[index]))

    def _set_items(self, items: list[Any]) -> None:
        target = self._top(dict)
        for name, value in zip(items[::2], items[1::2], strict=True):
            target[key(name)] = value

    def _persistent(self) -> None:
        pid = self._pop()
        if self.persistent is None:
            raise Refused("asks for a persistent object, and only tensors are read")
        self._push(self.persistent(pid))

    def _tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise Refused("takes values that it never made: it is damaged")
        self.stack[-count:] = [tuple(self.stack[-count:])]


_LARGEST_INDEX = 1_000_000
# What opcodes do, by their codes. Those with a size check it against the bytes that follow.
_OPERATIONS: dict[int, Callable[[Machine], None]] = {
    ord("\x80"): lambda m: _protocol(m._number("<B")),
    ord("\x95"): lambda m: _frame(m, m._number("<Q")),
    ord("N"): lambda m: m._push(None),
    ord("\x88"): lambda m: m._push(True),
    ord("\x89"): lambda m: m._push(False),
    ord("J"): lambda m: m._push(m._number("<i")),
    ord("K"): lambda m: m._push(m._number("<B")),
    ord("M"): lambda m: m._push(m._number("<H")),
    ord("\x8a"): lambda m: m._push(_long(m.take(m._number("<B")))),
    ord("G"): lambda m: m._push(m._number(">d")),
    ord("\x8c"): lambda m: m._push(str(m.take(m._number("<B")), "utf-8", "surrogatepass")),
    ord("X"): lambda m: m._push(str(m.take(m._number("<I")), "utf-8", "surrogatepass")),
    ord("\x8d"): lambda m: m._push(str(m.take(m._number("<Q")), "utf-8", "surrogatepass")),
    ord("C"): lambda m: m._push(m.take(m._number("<B"))),
    ord("B"): lambda m: m._push(m.take(m._number("<I"))),
    ord("\x8e"): lambda m: m._push(m.take(m._number("<Q"))),
    ord("("): lambda m: m.marks.append(len(m.stack)),
    ord(")"): lambda m: m._push(()),
    ord("\x85"): lambda m: m._tuple(1),
    ord("\x86"): lambda m: m._tuple(2),
    ord("\x87"): lambda m: m._tuple(3),
    ord("t"): lambda m: m._push(tuple(m._since_mark())),
    ord("]"): lambda m: m._push([]),
    ord("}"): lambda m: m._push({}),
    ord("\x8f"): lambda m: m._push(set()),
    ord("a"): lambda m: _extend(m, [m._pop()]),
    ord("e"): lambda m: _extend(m, m._since_mark()),
    ord("s"): lambda m: m._set_items([m._pop(), m._pop()][::-1]),
    ord("u"): lambda m: m._set_items(m._since_mark()),
    ord("\x90"): lambda m: _add(m, m._since_mark()),
    ord("c"): Machine._global,
    ord("\x93"): Machine._stack_global,
    ord("i"): Machine._inst,
    ord("R"): lambda m: m._call(m._pop(), new=False),
    ord("\x81"): lambda m: m._call(m._pop(), new=True),
    ord("b"): Machine._build,
    ord("q"): lambda m: m._put(m._number("<B")),
    ord("r"): lambda m: m._put(m._number("<I")),
    ord("\x94"): lambda m: m._put(len(m.memo)),
    ord("h"): lambda m: m._get(m._number("<B")),
    ord("j"): lambda m: m._get(m._number("<I")),
    ord("Q"): Machine._persistent,
}


def _is_no_state(state: Any) -> bool:
    """Nothing, or the versions of modules that ``state_dict()`` sets on its dict."""
    return type(state) is dict and state.keys() <= {"_metadata"}


def _finished(value: Any) -> Any:
    return value.value if isinstance(value, Unfinished) and value.value is not None else value


def _protocol(version: int) -> None:
    if version > 5:
        raise Refused(f"is a pickle of protocol {version}, and 5 is the newest known: it is damaged")


def _frame(machine: Machine, size: int) -> None:
    machine.take(size)  # checks that it is there
    machine.at -= size


def _extend(machine: Machine, items: list[Any]) -> None:
    machine._top(list).extend(items)


def _add(machine: Machine, items: list[Any]) -> None:
    machine._top(set).update([key(item) for item in items])


def _long(data: memoryview) -> int:
    if len(data) > 32:
        raise Refused(f"has a number of {len(data)} bytes, and networks need 10: it is not read")
    return int.from_bytes(data, "little", signed=True)


def _described(code: int) -> str:
    return f"the pickle opcode {_NAMES[code]}" if code in _NAMES else f"the byte {code} for an opcode"


def _printable(name: str) -> str:
    return re.sub(r"[^\w.]", "?", name[:100])
