"""What operators do with the versions of a secret: list, roll back, prune, and set their terms.

Values stay where they are: a rollback makes a kept version primary again under its own number.
Source: docs/explanation/versions.md.
"""

from cluster.control.new_primary import new_primary
from cluster.control.policy import Action, Principal
from cluster.control.requests import JSON, Answer, Decision, RequestContext, Requests
from cluster.control.retirement import needed_versions, settling
from cluster.control.rollout_policy import AT_ONCE
from cluster.control.secret_shown import versions_shown
from cluster.control.secrets import get_secret, secret_resource
from cluster.control.version_terms import VersionTerms, changed_terms, check_terms
from cluster.control.versions import made_primary, rollback_target, settled
from cluster.protocol.ids import format_id
from cluster.store.records import VersionState
from cluster.store.steps import Replace
from cluster.store.view import View
from cluster.system import Entropy


class SecretVersions:
    """The versions of secrets, as operators handle them."""

    def __init__(self, requests: Requests, entropy: Entropy) -> None:
        self._requests = requests
        self._entropy = entropy

    async def rollback(
        self, context: RequestContext, name: str, number: int | None = None
    ) -> Answer:
        """Make version `number` primary again, or the one that was primary before, by a rollout.

        Raises SecretNotFound, VersionNotFound, and Conflict for a version that is primary already
        or whose value is destroyed.
        """

        def decide(view: View) -> Decision:
            stored = get_secret(view, name)
            left = stored.record.primary.number
            target = rollback_target(stored.record, number).number
            # The version left is due at once: it stays only while the rollout needs it.
            after = made_primary(
                stored.record, target, self._now_s(), overlap_s=0.0, request_id=context.request_id
            )
            rollout_id = format_id(self._entropy.token(16))
            change = new_primary(view, stored, after, rollout_id, context.principal.name, AT_ONCE)
            answer: dict[str, JSON] = {
                "name": name,
                "version": target,
                "from_version": left,
                "rollout": change.rollout.id,
            }
            return Decision(change.steps, answer)

        return await self._requests.run_once(
            context, Action.SECRET_ROLLBACK, lambda view: [secret_resource(view, name)], decide
        )

    async def update(self, context: RequestContext, name: str, terms: VersionTerms) -> Answer:
        """Change how many versions a secret keeps, its overlap, its primary's expiry.

        Raises InvalidRequest for terms that contradict each other.
        """
        check_terms(terms)

        def decide(view: View) -> Decision:
            stored = get_secret(view, name)
            after = changed_terms(stored.record, terms, self._now_s())
            return Decision([Replace(stored, after)], {"name": name})

        return await self._requests.run_once(
            context, Action.SECRET_UPDATE, lambda view: [secret_resource(view, name)], decide
        )

    async def prune(self, context: RequestContext, name: str, keep: int | None = None) -> Answer:
        """Destroy the values of retired versions beyond `keep`, or beyond what the secret keeps.

        What may still be issued, or gone back to by a rollout, stays.
        """
        check_terms(VersionTerms(keep=keep))

        def decide(view: View) -> Decision:
            stored = get_secret(view, name)
            needed = needed_versions(view, stored.record)
            after = settled(stored.record, self._now_s(), needed, keep)
            kept = [
                version.number
                for version in after.record.versions
                if version.state is VersionState.RETIRED and not version.destroyed
            ]
            answer: dict[str, JSON] = {"name": name, "destroyed": after.destroyed, "kept": kept}
            return Decision(settling(view, stored, after), answer)

        return await self._requests.run_once(
            context, Action.SECRET_PRUNE, lambda view: [secret_resource(view, name)], decide
        )

    def list(self, principal: Principal, name: str) -> dict[str, JSON]:
        """Return the versions of a secret, who pins them and where they are. Raises
        SecretNotFound."""
        view = self._requests.store.view
        self._requests.check(principal, Action.SECRET_INSPECT, secret_resource(view, name))
        secret = get_secret(view, name).record
        return {"name": name, "keep": secret.keep, "versions": versions_shown(view, secret)}

    def _now_s(self) -> float:
        return self._requests.clock.now().timestamp()
