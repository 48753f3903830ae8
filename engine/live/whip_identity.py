"""The DTLS certificate of a stream sent by WHIP (RFC 9725).

By default the libav in PyAV's wheels makes a key on the curve P-224, which browsers and OpenSSL
refuse, so that the handshake fails.  So the stream makes its own certificate.
"""

from __future__ import annotations

import datetime
import tempfile
from pathlib import Path

from fusematte.engine.errors import OutputError

VALID = datetime.timedelta(days=30)
"""Peers check the fingerprint in the offer; the validity only has to be plausible."""


class Identity:
    """A self-signed certificate on P-256 and its key, in files that only this user can read.

    options: the options for libav's WHIP muxer.

    Raises:
        OutputError: cryptography is not installed.
    """

    def __init__(self) -> None:
        certificate, key = _make()
        self._folder = tempfile.TemporaryDirectory(prefix="fusematte-whip-")
        self.options = {}
        for name, text in (("cert_file", certificate), ("key_file", key)):
            path = Path(self._folder.name, f"{name}.pem")
            path.write_bytes(text)
            self.options[name] = str(path)

    def close(self) -> None:
        """Removes the files; may be called twice."""
        self._folder.cleanup()


def _make() -> tuple[bytes, bytes]:
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise OutputError(
            "streaming by WHIP needs cryptography", remedy="pip install 'fusematte[live]'"
        ) from error
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "FuseMatte")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALID)  # clocks differ
        .not_valid_after(now + VALID)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    kept = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return certificate.public_bytes(pem), key.private_bytes(pem, *kept)
