"""What ``cloudcore status`` shows: one JSON document, made on the loop from what the rooms know."""

from typing import TYPE_CHECKING, Any

from cloudcore.gauges import resident_bytes
from proto.kit.clock import rfc3339
from proto.kit.version import VERSION

if TYPE_CHECKING:
    from cloudcore.app import App


def of(app: "App") -> dict[str, Any]:
    """Return the state of a running daemon; cheap, no secret."""
    hub, now_s = app.hub, app.clock.now_s()
    url = app.settings.database_url(app.directory)
    links = app.link.sessions() if app.link is not None else {}
    return {
        "version": VERSION,
        "started_at": rfc3339(app.started_at),
        "ready": app.ready,
        "resident_bytes": int(resident_bytes()),
        "addresses": app.addresses,
        "embedded": {"api": app.settings.embedded_api, "broker": app.settings.embedded_broker},
        "database": url.partition(":")[0].partition("+")[0],
        "ca_hash": app.authority.ca_hash,
        "informers": {
            informer.kind.plural: {
                "objects": len(informer.objects),
                "synced": informer.synced.is_set(),
                "connected": informer.connected,
                "left_out": informer.left_out,
                "last_error": informer.last_error,
            }
            for informer in hub.cluster.informers
        },
        "waiting": {
            "statuses": hub.upstream.waiting,
            "devices": len(hub.devices.queue),
            "nodes": len(hub.nodes.queue),
        },
        "nodes": {
            node: {
                "connected": info.connected,
                "epoch": info.epoch,
                "since_s": round(now_s - info.since_s, 1),
                "last_seen_s": round(now_s - info.last_seen_s, 1),
                "devices": len(hub.scope.devices(node)),
                "pods": len(hub.scope.pods(node)),
                "backlogged": hub.replica.backlogged.get(node, ""),
            }
            for node, info in sorted(links.items())
        },
    }
