"""Promises about what a pod's spec sets: environment, files, identity, limits, namespaces, network."""

import asyncio

import pytest

from edgecore.pods.runtime import Device, Dns, Mount, PortMapping, Resources, Security
from tests.conformance.runtime.world import CAPABILITY_BITS, FOREVER, World
from tests.kit.wait import eventually

ALL_CAPABILITIES = sum(1 << bit for bit in CAPABILITY_BITS.values())


def field(status: str, name: str) -> str:
    """A field of /proc/self/status."""
    return next(line.split(":", 1)[1].strip() for line in status.splitlines() if line.startswith(f"{name}:"))


class SettingPromises:
    async def test_environment_and_working_directory_arrive(self, world: World) -> None:
        env = (("PLAIN", "a b"), ("QUOTED", "'$x\"\n="))

        said = await world.shell('printf "%s|%s|%s" "$PLAIN" "$QUOTED" "$PWD"', env=env, working_dir="/tmp")

        assert said.removesuffix("\n") == "a b|'$x\"\n=|/tmp"

    async def test_args_alone_go_to_the_images_own_command(self, world: World) -> None:
        said = await world.output("echo", args=("one", "two words"))

        assert said == "one two words\n"

    async def test_a_mount_is_the_hosts_folder(self, world: World) -> None:
        folder = world.folder / "volume"
        folder.mkdir()
        (folder / "in").write_text("from outside\n")
        mounts = (Mount("/volume", str(folder)),)

        said = await world.shell("cat /volume/in; echo from inside > /volume/out", mounts=mounts)

        assert said == "from outside\n"
        assert (folder / "out").read_text() == "from inside\n"

    async def test_a_read_only_mount_refuses_writes(self, world: World) -> None:
        folder = world.folder / "volume"
        folder.mkdir()
        mounts = (Mount("/volume", str(folder), readonly=True),)

        said = await world.shell("touch /volume/x || echo refused", mounts=mounts)

        assert "refused" in said
        assert list(folder.iterdir()) == []

    async def test_a_file_may_be_mounted(self, world: World) -> None:
        hosts = world.folder / "hosts"
        hosts.write_text("1.2.3.4 there\n")

        said = await world.shell("cat /etc/hosts", mounts=(Mount("/etc/hosts", str(hosts)),))

        assert said == "1.2.3.4 there\n"

    @pytest.mark.parametrize(("propagation", "seen"), [("HostToContainer", True), ("None", False)])
    async def test_a_later_mount_of_the_host_is_seen_where_asked_for(
        self, world: World, propagation: str, seen: bool
    ) -> None:
        volume = world.folder / "volume"
        (volume / "inner").mkdir(parents=True)
        world.node.run("mount", "--bind", str(volume), str(volume))
        world.node.run("mount", "--make-shared", str(volume))
        container_id = await world.run(*FOREVER, mounts=(Mount("/volume", str(volume), propagation=propagation),))

        world.node.run("mount", "-t", "tmpfs", "-o", "mode=700", "tmpfs", str(volume / "inner"))
        mounted = await world.says(container_id, "cat", "/proc/mounts")
        world.node.run("umount", "-R", str(volume))

        assert ("tmpfs /volume/inner" in mounted) is seen

    async def test_a_read_only_root_refuses_writes(self, world: World) -> None:
        said = await world.shell("touch /x || echo refused", security=Security(readonly_rootfs=True))

        assert "refused" in said

    async def test_ids_are_those_asked_for(self, world: World) -> None:
        security = Security(uid=1234, gid=2345, supplemental_groups=(3456, 4567))

        said = await world.shell("id -u; id -g; id -G", security=security)

        user, group, groups = said.splitlines()
        assert (user, group) == ("1234", "2345")
        assert {"3456", "4567"} <= set(groups.split())

    async def test_a_name_of_a_user_is_looked_up_in_the_image(self, world: World) -> None:
        assert await world.shell("id -u", security=Security(user_name="nobody")) == "65534\n"

    async def test_dropped_capabilities_are_gone_and_added_ones_are_there(self, world: World) -> None:
        security = Security(capabilities_drop=("ALL",), capabilities_add=("NET_BIND_SERVICE",))

        said = await world.shell("cat /proc/self/status", security=security)

        assert int(field(said, "CapEff"), 16) == 1 << CAPABILITY_BITS["NET_BIND_SERVICE"]

    async def test_a_plain_container_has_no_great_power_and_a_privileged_one_has(self, world: World) -> None:
        plain = await world.shell("cat /proc/self/status")
        privileged = await world.shell(
            "cat /proc/self/status",
            pod=world.sandbox(security=Security(privileged=True)),
            security=Security(privileged=True),
        )

        admin = 1 << CAPABILITY_BITS["SYS_ADMIN"]
        assert int(field(plain, "CapEff"), 16) & admin == 0
        assert int(field(privileged, "CapEff"), 16) & ALL_CAPABILITIES == ALL_CAPABILITIES

    async def test_no_new_privileges_and_seccomp_are_set_as_asked(self, world: World) -> None:
        strict = await world.shell(
            "cat /proc/self/status", security=Security(no_new_privileges=True, seccomp="RuntimeDefault")
        )
        loose = await world.shell("cat /proc/self/status", security=Security(seccomp="Unconfined"))

        assert (field(strict, "NoNewPrivs"), field(strict, "Seccomp")) == ("1", "2")
        assert (field(loose, "NoNewPrivs"), field(loose, "Seccomp")) == ("0", "0")

    async def test_the_kernels_settings_are_read_only(self, world: World) -> None:
        said = await world.shell("echo 1 > /proc/sys/kernel/panic || echo refused")

        assert "refused" in said

    async def test_a_device_is_there_under_its_name(self, world: World) -> None:
        said = await world.shell("head -c 3 /dev/nothing | wc -c", devices=(Device("/dev/nothing", "/dev/zero"),))

        assert said.strip() == "3"

    async def test_a_raised_limit_holds_at_once(self, world: World) -> None:
        container_id = await world.run(*FOREVER, resources=Resources(memory_bytes=24 << 20))
        greedy = ("dd", "if=/dev/zero", "of=/dev/null", "bs=60M", "count=1")

        before = await world.runtime.exec_sync(container_id, greedy, 10)
        await world.runtime.update_resources(container_id, Resources(memory_bytes=256 << 20, cpu_shares=512))
        after = await world.runtime.exec_sync(container_id, greedy, 10)

        assert (before.exit_code, after.exit_code) == (137, 0)

    async def test_usage_tells_memory_and_growing_cpu_of_what_runs(self, world: World) -> None:
        container_id = await world.run("sh", "-c", "while :; do :; done", resources=Resources(cpu_quota_us=20_000))

        async def cpu_ns() -> int:
            found = [u for u in await world.runtime.usage() if u.container_id == container_id and u.memory_bytes > 0]
            return found[0].cpu_ns if found else 0

        first = await eventually(cpu_ns)
        await eventually(lambda: self.grew(world, container_id, first))

    async def grew(self, world: World, container_id: str, before: int) -> bool:
        return any(u.cpu_ns > before for u in await world.runtime.usage() if u.container_id == container_id)


class NamespacePromises:
    async def test_containers_of_a_pod_share_network_and_host_name_but_not_processes(self, world: World) -> None:
        config = world.sandbox(hostname="together")
        sandbox_id = await world.run_sandbox(config)
        spaces = []
        for name in ("a", "b"):
            one = await world.add(sandbox_id, config, *FOREVER, name=name, log_path=f"{name}/0.log")
            spaces.append(
                [(await world.says(one, "readlink", f"/proc/self/ns/{kind}")) for kind in ("net", "uts", "pid")]
            )
            assert await world.says(one, "hostname") == "together\n"

        assert spaces[0][:2] == spaces[1][:2]
        assert spaces[0][2] != spaces[1][2]

    async def test_a_pod_may_share_its_processes(self, world: World) -> None:
        config = world.sandbox(share_pid=True)
        sandbox_id = await world.run_sandbox(config)
        await world.add(sandbox_id, config, "sleep", "4321", name="a", log_path="a/0.log")

        other = await world.add(sandbox_id, config, *FOREVER, name="b", log_path="b/0.log")

        assert "sleep 4321" in await world.says(other, "ps")

    async def test_the_hosts_namespaces_are_shared_where_asked_for(self, world: World) -> None:
        container_id = await world.run(pod=world.sandbox(host_network=True, host_pid=True, host_ipc=True))

        for kind in ("net", "pid", "ipc"):
            outside = world.node.run("readlink", f"/proc/self/ns/{kind}")
            assert await world.says(container_id, "readlink", f"/proc/self/ns/{kind}") == outside

    async def test_name_servers_are_those_asked_for(self, world: World) -> None:
        dns = Dns(servers=("10.1.2.3",), searches=("a.test", "b.test"), options=("ndots:5",))

        said = await world.shell("cat /etc/resolv.conf", pod=world.sandbox(dns=dns))

        lines = [line.split() for line in said.splitlines()]
        assert ["nameserver", "10.1.2.3"] in lines
        assert ["search", "a.test", "b.test"] in lines
        assert ["options", "ndots:5"] in lines

    async def test_a_sysctl_holds_in_the_pod(self, world: World) -> None:
        pod = world.sandbox(sysctls={"net.ipv4.ip_local_port_range": "20000 30000"})

        said = await world.shell("cat /proc/sys/net/ipv4/ip_local_port_range", pod=pod)

        assert said.split() == ["20000", "30000"]


class NetworkPromises:
    """Of runtimes that give each pod an address of its own."""

    async def answer(self, world: World, host: str, port: int) -> bytes:
        try:
            async with asyncio.timeout(2):
                reader, writer = await world.node.dial(host, port)
                writer.write(b"ping\n")
                heard = await reader.readline()
        except (OSError, TimeoutError):
            return b""
        writer.close()
        await writer.wait_closed()
        return heard

    async def test_a_pod_is_reached_at_its_address(self, world: World) -> None:
        config = world.sandbox()
        sandbox_id = await world.run_sandbox(config)
        await world.add(sandbox_id, config, "nc", "-ll", "-p", "8080", "-e", "cat")
        (address,) = (await world.runtime.sandbox_status(sandbox_id)).ips

        assert await eventually(lambda: self.answer(world, address, 8080)) == b"ping\n"

    @pytest.mark.parametrize("address", ["127.0.0.1", "10.88.0.1"])
    async def test_a_host_port_leads_to_the_pod_until_it_is_stopped(self, world: World, address: str) -> None:
        config = world.sandbox(ports=(PortMapping(container_port=8080, host_port=18080),))
        sandbox_id = await world.run_sandbox(config)
        await world.add(sandbox_id, config, "nc", "-ll", "-p", "8080", "-e", "cat")

        assert await eventually(lambda: self.answer(world, address, 18080)) == b"ping\n"
        await world.runtime.stop_sandbox(sandbox_id)
        assert await self.answer(world, address, 18080) == b""
