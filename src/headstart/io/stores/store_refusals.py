"""What a bucket's refusal means: turns an exception of obstore into a sentence, and says whether to retry.

obstore's own messages contain the URL of the request, which can hold a signature, so none of them is shown. Only the status
and the server's code, such as `NoSuchBucket`, are taken from them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from headstart.errors import ChangedInStore, DeniedInStore, MissingInStore, StoreError, StoreRefused, StoreUnreachable
from headstart.io.stores.retries import TRIES
from headstart.io.stores.store_urls import VARIABLES

_STATUS = re.compile(r"status(?: code)?: (\d{3})|\(code: (\d{3})\)")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>|\\?\"code\\?\": ?\\?\"(\w{1,60})")
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound", "AccountIsDisabled"})
_REGION = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"})
_WRONG_KEYS = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AuthenticationFailed"})
_ARCHIVED = frozenset({"InvalidObjectState", "BlobArchived"})
_CONFLICTS = frozenset({"ConditionalRequestConflict", "OperationAborted"})
_CUT_SHORT = frozenset({"RequestTimeout", "IncompleteBody"})
"""The body did not arrive in time or whole. S3 answers 400, although the same request may succeed the next time."""


@dataclass(frozen=True)
class BucketRefusal:
    """One failed request. `url` is the place that was opened; `what` is the key of the file, or ''."""

    url: str
    what: str
    text: str

    @property
    def status(self) -> int:
        """The HTTP status, 0 if there was none."""
        found = _STATUS.search(self.text)
        return int(found[1] or found[2]) if found else 0

    @property
    def code(self) -> str:
        """The server's own code for the error, such as `NoSuchBucket`; '' if there is none."""
        found = _CODE.search(self.text)
        return (found[1] or found[2]) if found else ""

    @property
    def is_conflict(self) -> bool:
        """Whether two writers collided; neither has written anything yet."""
        return self.code in _CONFLICTS

    @property
    def slow_down(self) -> bool:
        """Whether the server asked for fewer requests."""
        return self.status in (429, 503)

    @property
    def no_credentials(self) -> bool:
        """Whether no credentials were found: the last source tried is the metadata service of cloud machines."""
        return "169.254.169.254" in self.text or "metadata.google" in self.text or "169.254.170." in self.text

    @property
    def nobody_there(self) -> bool:
        """Whether no connection could be made."""
        return "kind: Connect" in self.text

    @property
    def tries(self) -> int:
        """How many times the request may be made."""
        if self.no_credentials or self.code in _EXPIRED:
            return 1
        return TRIES if self._may_pass or self.is_conflict else 1

    @property
    def _may_pass(self) -> bool:
        """Whether the cause may be gone the next time."""
        if "Received redirect" in self.text:
            return False
        return self.status == 0 or self.status >= 500 or self.status in (408, 429) or self.code in _CUT_SHORT

    @property
    def _endpoint(self) -> str:
        return " and AWS_ENDPOINT_URL" if self.url.startswith("s3:") else ""

    def error(self) -> StoreError:
        """Return the error for the user, without any text of the server or of obstore."""
        scheme = self.url.partition(":")[0]
        bucket = "/".join(self.url.split("/")[:3])
        place = self.url + self.what
        if self.no_credentials:
            return StoreRefused(f"{bucket}: no credentials were found.", hint=f"Set {VARIABLES[scheme]}.")
        if self.code in _EXPIRED:
            return StoreRefused(
                f"{bucket}: the credentials have expired ({self.code}).",
                hint=f"Get new ones, and set {VARIABLES[scheme]}; then run the command again: finished work is kept.",
            )
        if self.code in _WRONG_KEYS or self.status == 401:
            return StoreRefused(
                f"{bucket}: the credentials are not accepted ({self.code or self.status}).",
                hint=f"Check {VARIABLES[scheme]}.",
            )
        if self.code in _ARCHIVED:
            return StoreError(f"{place}: is archived ({self.code}).", hint="Restore it from the archive first.")
        if self.status == 403:
            return DeniedInStore(
                f"{place}: no permission ({self.code or self.status}).",
                hint="Ask the bucket's owner for permission to list and read it, and to write to it if the output goes there.",
            )
        if self.code in _NO_BUCKET:
            return StoreRefused(f"{bucket}: there is no such bucket.", hint=f"Check its name{self._endpoint}.")
        if self.code in _REGION or self.status in (301, 307) or "Received redirect" in self.text:
            return StoreRefused(f"{bucket}: is in another region.", hint="Set AWS_REGION to the bucket's region.")
        if self.status == 404:
            return MissingInStore(f"{place}: is missing.", hint="It may have been removed since it was listed.")
        if self.status == 412:
            return ChangedInStore(f"{place}: has changed since it was listed.", hint="Run the command again.")
        if not self._may_pass:
            return StoreError(f"{place}: the request was refused ({self.code or self.status}).")
        if self.nobody_there:
            said = "the server cannot be reached"
        elif self.status:
            said = f"the server answered {self.tries} times with {self.status} {self.code}".rstrip()
        else:
            said = f"the server gave no usable answer, {self.tries} times"
        return StoreUnreachable(
            f"{place}: {said}.",
            hint=f"Check the network{self._endpoint}, then run the command again: finished work is kept.",
        )
