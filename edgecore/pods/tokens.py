"""Bound service-account tokens, signed by the node's own key: the node-local API accepts them, with or without a cloud."""

from typing import Any, Self

from edgecore.data_dir import DataDir
from edgecore.pods.lookups import Objects
from edgecore.pods.unready import Unready
from kubeapi.tokens import ISSUER, MIN_LIFE_S, BadToken, TokenSigner, open_key
from proto.kit.clock import Clock

KEY_FILE = "service-account.key"
RENEW_AT = 0.8  # of a token's life, as kubelet does
OLDEST_S = 24 * 3600  # and never older than a day


class Tokens:
    """Makes tokens for pods, and says when one in use is due."""

    def __init__(self, signer: TokenSigner, objects: Objects) -> None:
        self._signer = signer
        self._objects = objects

    @classmethod
    def open(cls, directory: DataDir, objects: Objects, clock: Clock, *, issuer: str = ISSUER) -> Self:
        """Open the node's key, made now if it is not there. Raises OSError."""
        directory.pki.mkdir(parents=True, exist_ok=True, mode=0o700)
        return cls(TokenSigner(open_key(directory.pki / KEY_FILE), clock, issuer=issuer), objects)

    def token(
        self, namespace: str, account: str, audiences: tuple[str, ...], expiration_s: int, pod_name: str, pod_uid: str
    ) -> str:
        """Return a token for ``account`` that dies with the pod; () is the API's own audience. Raises Unready."""
        found = self._objects.get("serviceaccounts", namespace, account)
        if found is None:
            raise Unready("FailedMount", f'serviceaccount "{namespace}/{account}" not found', volumes=True)
        now = self._signer.now()
        bound: dict[str, Any] = {
            "namespace": namespace,
            "serviceaccount": {"name": account, "uid": found["metadata"].get("uid", "")},
            "pod": {"name": pod_name, "uid": pod_uid},
        }
        return self._signer.sign(
            {
                "iss": self._signer.issuer,
                "sub": f"system:serviceaccount:{namespace}:{account}",
                "aud": list(audiences) or [self._signer.issuer],
                "iat": now,
                "nbf": now,
                "exp": now + max(MIN_LIFE_S, expiration_s),
                "kubernetes.io": bound,
            }
        )

    def fresh(self, token: str, namespace: str, account: str, audiences: tuple[str, ...], pod_uid: str) -> bool:
        """Whether ``token`` is ours, for exactly this, and before 80 % of its life."""
        try:
            claims = self._signer.read(token, audiences)
        except BadToken:
            return False
        bound, now = claims.get("kubernetes.io") or {}, self._signer.now()
        found = self._objects.get("serviceaccounts", namespace, account)
        wanted = {"name": account, "uid": (found or {"metadata": {}})["metadata"].get("uid", "")}
        issued, expires = claims.get("iat", 0), claims.get("exp", 0)
        return (
            bound.get("serviceaccount") == wanted
            and (bound.get("pod") or {}).get("uid") == pod_uid
            and claims.get("aud") == (list(audiences) or [self._signer.issuer])
            and now < min(issued + RENEW_AT * (expires - issued), issued + OLDEST_S)
        )
