"""Promises about images: listed, imported, removed; and pulled, by runtimes that pull."""

import gzip
import hashlib
import tarfile
from pathlib import Path

import pytest

from edgecore.pods.runtime import Auth, NoSuch, RuntimeRefused
from tests.conformance.runtime.world import World
from tests.kit import images
from tests.kit.registry import Registry


class ImagePromises:
    async def test_an_image_is_found_by_name_and_by_id(self, world: World) -> None:
        by_name = await world.runtime.image(world.node.image)

        assert by_name is not None
        assert world.node.image in by_name.tags
        assert by_name.size_bytes > 100_000
        assert await world.runtime.image(by_name.id) == by_name
        assert by_name in await world.runtime.images()

    async def test_an_image_that_is_not_there_is_none(self, world: World) -> None:
        assert await world.runtime.image("localhost/skerry/nowhere:1") is None

    async def test_an_image_names_the_user_it_runs_as(self, world: World) -> None:
        numbered = await self.imported(world, "localhost/skerry/numbered:1", User="1234:5")
        named = await self.imported(world, "localhost/skerry/named:1", User="nobody")
        plain = await self.imported(world, "localhost/skerry/plain:1")

        found = [await world.runtime.image(reference) for reference in (numbered, named, plain)]

        assert [(i.uid, i.user_name) for i in found if i] == [(1234, ""), (None, "nobody"), (None, "")]
        assert await world.shell("id -u", image=numbered) == "1234\n"

    async def test_an_images_entrypoint_and_environment_hold(self, world: World) -> None:
        settings = {"Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo $FROM"], "Env": ["PATH=/bin", "FROM=image"]}
        reference = await self.imported(world, "localhost/skerry/entry:1", **settings)

        assert await world.output(*(), image=reference, command=()) == "image\n"

    async def test_an_images_own_stop_signal_is_used(self, world: World) -> None:
        reference = await self.imported(world, "localhost/skerry/usr1:1", StopSignal="SIGUSR1")
        script = "trap 'exit 9' USR1; touch /tmp/ready; while :; do sleep 0.05; done"
        container_id = await world.run("sh", "-c", f"{script}", image=reference)
        await world.says(container_id, "sh", "-c", "until [ -e /tmp/ready ]; do sleep 0.02; done")

        await world.runtime.stop_container(container_id, 20)

        assert (await world.ended(container_id)).exit_code == 9

    async def test_a_removed_image_is_gone_and_may_be_removed_again(self, world: World) -> None:
        reference = await self.imported(world, "localhost/skerry/gone:1", Labels={"only": "here"})
        image = await world.runtime.image(reference)
        assert image is not None

        await world.runtime.remove_image(image.id)
        await world.runtime.remove_image(image.id)

        assert await world.runtime.image(reference) is None

    async def test_one_archive_may_hold_several_images(self, world: World) -> None:
        both = [images.busybox_image(f"localhost/skerry/both-{name}:1", Labels={"n": name}) for name in "ab"]

        found = await world.runtime.import_archive(images.write_archive(world.folder / "both.tar", *both))

        assert found == ["localhost/skerry/both-a:1", "localhost/skerry/both-b:1"]
        assert all([await world.runtime.image(reference) for reference in found])

    @pytest.mark.parametrize("mode", ["w", "w:gz"])
    async def test_what_docker_saved_is_imported(self, world: World, mode: str) -> None:
        made = images.busybox_image("localhost/skerry/saved:1", Labels={"mode": mode})
        archive = images.write_docker_archive(world.folder / "saved.tar", made, mode=mode)

        assert await world.runtime.import_archive(archive) == [made.reference]

        assert await world.shell("echo saved", image=made.reference) == "saved\n"

    @pytest.mark.parametrize("kind", ["nothing", "no tar", "empty tar", "cut short", "cut gzip", "nameless"])
    async def test_a_bad_archive_is_refused_with_a_reason(self, world: World, kind: str) -> None:
        archive = self.bad_archive(world.folder / "bad.tar", kind)

        with pytest.raises(RuntimeRefused) as refusal:
            await world.runtime.import_archive(archive)

        assert str(archive) in str(refusal.value) or "archive" in str(refusal.value)
        assert refusal.value.reason == "InvalidArchive"

    @pytest.mark.parametrize("kind", ["changed", "incomplete"])
    async def test_of_a_damaged_archive_nothing_is_left_and_the_whole_one_is_taken(
        self, world: World, kind: str
    ) -> None:
        only_here = images.layer([images.Entry("only", content=b"only here " + kind.encode() * 20_000)])
        one = images.image(f"localhost/skerry/damaged-{kind}:1", [only_here], {"Labels": {"kind": kind}})
        whole = images.write_archive(world.folder / "whole.tar", one)
        damaged = self.damaged(world.folder / "damaged.tar", whole, kind, only_here)

        with pytest.raises(RuntimeRefused) as refusal:
            await world.runtime.import_archive(damaged)

        said = str(refusal.value)
        assert (refusal.value.reason, str(damaged) in said, "\n" in said) == ("InvalidArchive", True, False), said
        assert await world.runtime.image(one.reference) is None
        assert await world.runtime.import_archive(whole) == [one.reference]

    async def test_the_image_store_says_where_it_is_and_what_it_holds(self, world: World) -> None:
        async def used() -> bool:  # some runtimes count now and then
            found = await world.runtime.image_filesystem()
            return found.path.startswith("/") and found.used_bytes > 0

        assert await self.eventually(used)

    async def imported(self, world: World, reference: str, **settings: object) -> str:
        archive = images.write_archive(world.folder / "image.tar", images.busybox_image(reference, **settings))
        assert await world.runtime.import_archive(archive) == [reference]
        return reference

    @staticmethod
    async def eventually(condition: object) -> bool:
        from tests.kit.wait import eventually

        return bool(await eventually(condition, 15.0))  # type: ignore[call-overload]

    @staticmethod
    def damaged(path: Path, whole: Path, kind: str, layer: bytes) -> Path:
        """One byte of a layer is another one, or the layer is not there."""
        if kind == "changed":
            content = bytearray(whole.read_bytes())
            content[content.index(b"only here ")] ^= 1
            path.write_bytes(content)
            return path
        name = f"blobs/sha256/{hashlib.sha256(layer).hexdigest()}"
        with tarfile.open(whole) as old, tarfile.open(path, "w") as new:
            for member in old:
                if member.name != name:
                    new.addfile(member, old.extractfile(member))
        return path

    @staticmethod
    def bad_archive(path: Path, kind: str) -> Path:
        good = images.archive("busybox").read_bytes()
        if kind == "no tar":
            path.write_bytes(b"this is no tar" * 100)
        elif kind == "empty tar":
            tarfile.open(path, "w").close()
        elif kind == "cut short":
            path.write_bytes(good[: len(good) // 2])
        elif kind == "cut gzip":
            path.write_bytes(gzip.compress(good, 1)[:200_000])
        elif kind == "nameless":
            images.write_archive(path, images.busybox_image(""))
        return path


class PullPromises:
    """Of runtimes that pull from a registry."""

    async def test_a_pulled_image_runs(self, world: World, registry: Registry) -> None:
        reference = registry.add("app/plain", "1", Labels={"pulled": "yes"})

        image_id = await world.runtime.pull(reference)

        found = await world.runtime.image(reference)
        assert found is not None
        assert found.id == image_id
        assert await world.shell("echo runs", image=image_id) == "runs\n"

    async def test_an_image_may_be_pulled_by_its_digest(self, world: World, registry: Registry) -> None:
        tagged = registry.add("app/digest", "1", Labels={"by": "digest"})
        reference = f"{tagged.rsplit(':', 1)[0]}@{registry.digest('app/digest', '1')}"

        await world.runtime.pull(reference)

        found = await world.runtime.image(reference)
        assert found is not None
        assert reference in found.digests

    async def test_an_image_that_the_registry_lacks_is_no_such(self, world: World, registry: Registry) -> None:
        with pytest.raises(NoSuch) as refusal:
            await world.runtime.pull(registry.reference("app/missing", "1"))

        assert refusal.value.reason == "ErrImagePull"

    async def test_a_private_image_needs_its_password(self, world: World, registry: Registry) -> None:
        reference = registry.add("app/private", "1", Labels={"secret": "yes"}, login=("me", "right"))

        for auth in (None, Auth("me", "wrong")):
            with pytest.raises(RuntimeRefused) as refusal:
                await world.runtime.pull(reference, auth)
            assert refusal.value.reason == "ErrImagePull"
            assert "wrong" not in str(refusal.value)
        await world.runtime.pull(reference, Auth("me", "right"))

        assert await world.runtime.image(reference) is not None

    async def test_a_registry_that_is_away_is_refused_in_words(self, world: World) -> None:
        with pytest.raises(RuntimeRefused, match="refused"):
            await world.runtime.pull("localhost:9/app/x:1")
