"""PDF to text."""

import io

from pypdf import PdfReader

from mesh.errors import MeshError, invalid

HEADER = b"%PDF-"
HEADER_WITHIN_BYTES = 1024


def text_of_pdf(content: bytes) -> str:
    """Return the text of the pages; raise INVALID_ARGUMENT for `content` that cannot be read."""
    # pypdf meets broken files with many kinds of errors, its own and Python's
    try:
        reader = PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise invalid("content", "content is an encrypted PDF that needs a password.")
        return "\n\n".join(page.extract_text() for page in reader.pages)
    except MeshError:
        raise
    except Exception as error:
        raise invalid("content", "content is a PDF that is broken and cannot be read.") from error
