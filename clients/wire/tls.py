"""Certificates and keys, for both protocols."""

from __future__ import annotations

import ssl
from pathlib import Path

from clients.errors import OptionsError
from clients.options import ConnectionOptions
from clients.wire.address import Address


def tls_context(address: Address, options: ConnectionOptions) -> ssl.SSLContext | None:
    """What connections are encrypted with; None for an address without TLS. Raises OptionsError."""
    if not address.has_tls:
        return None
    pem_files(options)
    try:
        context = ssl.create_default_context(cafile=options.root_certificates)
        if options.certificate is not None and options.private_key is not None:
            # An empty passphrase, where OpenSSL would ask for one on the terminal.
            context.load_cert_chain(options.certificate, options.private_key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise OptionsError(f"the certificates cannot be used: {error}") from error
    return context


def tls_reason(error: Exception) -> str:
    """What OpenSSL says, without its own coordinates."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    return (reason or str(error)).replace("_", " ").lower()


def pem_files(options: ConnectionOptions) -> tuple[bytes | None, bytes | None, bytes | None]:
    """The contents of root certificates, certificate and private key; None for what is not given.

    Raises OptionsError for a file that cannot be read or is not PEM.
    """
    root, certificate, private_key = (
        None if path is None else _read_pem(path, what)
        for path, what in (
            (options.root_certificates, "root certificates"),
            (options.certificate, "a certificate"),
            (options.private_key, "a private key"),
        )
    )
    return root, certificate, private_key


def _read_pem(path: Path, what: str) -> bytes:
    """A certificate or key; raises OptionsError for a file that cannot be read or holds none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OptionsError(f"expected {what} in {path}, got: {error.strerror}") from error
    if b"-----BEGIN " not in content:
        raise OptionsError(f"expected {what} in PEM in {path}, it has no line -----BEGIN ...: convert it with openssl")
    return content
