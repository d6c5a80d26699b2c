"""The engine's side of the images: the store's, and never removed under a container that uses them."""

from __future__ import annotations

from poc.engine.store import read_optional
from poc.errors import Conflict
from poc.images.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.engine import Engine, Progress
    from poc.images.store import Image

    Names = list[str]  # `list` is a method below


class Images:
    """All images of an engine."""

    __slots__ = ("_engine", "store")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.store = Store(engine.paths.data)

    def get(self, reference: str) -> Image:
        """The image of this reference, id or id prefix. Raises ImageNotFound."""
        return self.store.get(reference)

    def list(self) -> list[Image]:
        """All images, newest first."""
        return self.store.list()

    def tag(self, reference: str, new: str) -> Image:
        """Give an image another reference."""
        return self.store.tag(reference, new)

    def remove(self, reference: str, force: bool = False) -> tuple[Names, Names]:
        """Take a reference away, and the image with its last one. Returns (references, ids) that are gone.

        Raises Conflict when a container needs it: ``force`` does not change that.
        """
        self.store.get(reference)
        with self._engine.paths.alone():
            return self.store.remove(reference, force, before_delete=self._refuse_if_used)

    def _refuse_if_used(self, image: Image) -> None:
        if users := self.users(image.id):
            name = ", ".join(image.references) or image.id[:19]
            raise Conflict(f"image {name} is used by container {users[0][:12]}; remove that first")

    def users(self, image_id: str) -> Names:
        """The ids of the containers that were made from an image."""
        paths = self._engine.paths
        return [
            id for id in paths.ids() if read_optional(paths.container(id, "container.json")).get("image") == image_id
        ]

    def make_base(
        self, source: str | None = None, argument: str | None = None, progress: Progress | None = None
    ) -> Image:
        """Make the image ``ubuntu``, from ``source`` or the first that works (`poc.images.bootstrap`)."""
        from poc.images.bootstrap import make_base

        with self._engine.paths.share():
            return make_base(self.store, source, argument, progress)
