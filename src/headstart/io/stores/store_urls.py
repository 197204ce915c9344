"""What the URL of a bucket may be, and where its credentials come from instead."""

from __future__ import annotations

from headstart.errors import StoreError

VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for temporary ones, AWS_SESSION_TOKEN",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS (or `gcloud auth application-default login`)",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or `az login` and AZURE_USE_AZURE_CLI=true)",
}
"""URL scheme -> the environment variables with its credentials."""


def checked_url(url: str) -> str:
    """Return the URL if it names only a bucket and a prefix.

    Raises `StoreError`, which never repeats what may be secret.
    """
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket or "?" in rest or "#" in rest:
        raise StoreError(
            f"{scheme}://: the URL contains a user, a password or a signature; expected {scheme}://bucket/prefix/.",
            hint=f"Credentials are taken from {VARIABLES[scheme]}.",
        )
    if not bucket or "//" in prefix or {".", ".."} & set(prefix.split("/")):
        raise StoreError(f"{url}: expected {scheme}://bucket/prefix/.")
    return url
