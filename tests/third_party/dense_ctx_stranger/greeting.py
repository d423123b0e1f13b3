"""A kind of parts of our own: greetings."""

from abc import ABC, abstractmethod


class Greeting(ABC):
    """The base class of every part of kind "greeting"."""

    @abstractmethod
    def words(self, name: str) -> str:
        """Greet somebody."""


class Plain(Greeting):
    """ "hello NAME".

    Args:
        end: what comes after the name.
    """

    def __init__(self, end: str = "") -> None:
        self.end = end

    def words(self, name: str) -> str:
        """Greet somebody."""
        return f"hello {name}{self.end}"
