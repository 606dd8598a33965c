"""What the children of one principal for one server have in common."""

from .seal import Seal

__all__ = ["Owner"]


class Owner:
    """Whose children they are.

    Attributes:
        binding: Bytes that tell this owner from every other: a state is bound to them.
        seal: Makes and opens states.
        private: Whether its children differ from those of others, by a credential for instance.
        parked: Calls that wait for the answers to a child's questions, of all its children.
    """

    def __init__(self, binding: bytes, seal: Seal, *, private: bool = False) -> None:
        self.binding = binding
        self.seal = seal
        self.private = private
        self.parked = 0
