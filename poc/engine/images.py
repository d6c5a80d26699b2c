"""The engine's side of the images: the store's, and never removed under a container that uses them."""

from __future__ import annotations

from poc.engine import events
from poc.engine.store import read_optional
from poc.errors import Conflict
from poc.images.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import IO, Any

    from poc.engine import Engine, Progress
    from poc.images.store import Image

    Filters = Mapping[str, str | Iterable[str]] | Iterable[str]
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

    def list(self, filters: Filters = ()) -> list[Image]:
        """All images, newest first; or those that match docker's ``filters``.

        ``{"dangling": "true"}`` or ``["label=a=b"]``: before, dangling, label, reference (a pattern), since. Raises
        InvalidArgument, and ImageNotFound for an unknown one in ``before`` or ``since``.
        """
        found = self.store.list()
        if not filters:
            return found
        from poc.engine.image_filters import select

        return select(found, filters, lambda name: self.get(name).created)

    def tag(self, reference: str, new: str) -> Image:
        """Give an image another reference."""
        image = self.store.tag(reference, new)
        self._emit("tag", image.id, name=new)
        return image

    def remove(self, reference: str, force: bool = False) -> tuple[Names, Names]:
        """Take a reference away, and the image with its last one. Returns (references, ids) that are gone.

        Raises Conflict when a container needs it: ``force`` does not change that.
        """
        image = self.store.get(reference)
        with self._engine.paths.alone():
            names, ids = self.store.remove(reference, force, before_delete=self._refuse_if_used)
        for _ in names:
            self._emit("untag", image.id)
        for id in ids:
            self._emit("delete", id)
        return names, ids

    def _emit(self, action: str, id: str, name: str = "") -> None:
        events.emit(self._engine.paths, "image", action, id, name=name or id)

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

    def import_tar(
        self,
        source: IO[bytes] | str,
        reference: str = "",
        changes: Sequence[str] = (),
        message: str = "",
        progress: Progress | None = None,
    ) -> Image:
        """Make an image of a root file system that is a tar archive, perhaps compressed: a path or a binary file.

        How to run it only ``changes`` say, a Dockerfile's instructions. Raises InvalidArgument and OSError.
        """
        from poc.engine.instructions import change

        config = change({"Cmd": None, "Env": []}, changes)
        with self._engine.paths.share():
            self.store.sweep()
            image = self.store.add_tar(source, reference, config, progress, step={"comment": message})
        self._emit("import", image.id, name=reference)
        return image

    def prune(self, all: bool = False, filters: Filters = ()) -> dict[str, Any]:
        """Remove those without a name, with ``all`` those without a container.

        Filters: dangling, until, label, label!. Returns docker's ``{"ImagesDeleted": …, "SpaceReclaimed": bytes}``.
        """
        from poc.engine.cleaning import prune_images

        return prune_images(self._engine, all, filters)

    def make_base(
        self, source: str | None = None, argument: str | None = None, progress: Progress | None = None
    ) -> Image:
        """Make the image ``ubuntu``, from ``source`` or the first that works (`poc.images.bootstrap`)."""
        from poc.images.bootstrap import make_base

        with self._engine.paths.share():
            known = {image.id for image in self.list()}
            image = make_base(self.store, source, argument, progress)
        if image.id not in known:
            self._emit("import", image.id, name=image.references[0])
        return image

    def make_of_packages(
        self,
        reference: str,
        packages: Names,
        source: str | None = None,
        argument: str | None = None,
        progress: Progress | None = None,
    ) -> Image:
        """Make an image of the base image's packages and these, from ``source`` as `make_base` does."""
        from poc.images.bootstrap import make_of_packages

        with self._engine.paths.share():
            image = make_of_packages(self.store, reference, packages, source, argument, progress)
        self._emit("import", image.id, name=reference)
        return image
