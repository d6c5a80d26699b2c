"""The engine: containers, images and networks of one store, in docker's words. There is no daemon behind it."""

from __future__ import annotations

from poc.engine.networks import Networks
from poc.engine.store import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from poc.engine.containers import Containers
    from poc.engine.images import Images

    Progress = Callable[[str, int, int], object]


class Engine:
    """One store of containers, images and networks.

    ``root`` moves all of it to another directory, so that several stores can stand side by side; without it
    the environment variable POC_ROOT is used, and then /var/lib/poc and /run/poc. Needs root.
    """

    __slots__ = ("networks", "paths")

    def __init__(self, root: str | None = None) -> None:
        self.paths = Paths(root)
        self.networks = Networks(self.paths)

    @property
    def containers(self) -> Containers:
        """The containers: create, run, get, list."""
        from poc.engine.containers import Containers

        return Containers(self)

    @property
    def images(self) -> Images:
        """The images: get, list, remove, tag, make_base."""
        from poc.engine.images import Images

        return Images(self)

    def init(
        self, source: str | None = None, argument: str | None = None, progress: Progress | None = None
    ) -> list[str]:
        """Make the base image, the directories and the bridge with its NAT; what is there is kept or repaired.

        Returns what a person should know, one line each. Raises PocError and OSError.
        """
        from poc.engine import recovery

        with self.paths.share():
            recovery.recover_all(self)
            image = self.images.make_base(source, argument, progress)
            self.networks.ensure()
        return [image.note] if image.note else []

    def prune(self, images: bool = False) -> list[str]:
        """Remove everything poc made here: containers (running ones too), bridge, nftables table, state.

        With ``images`` the images as well. Returns what was removed, one line each.
        """
        from poc.engine.prune import prune

        return prune(self, images)
