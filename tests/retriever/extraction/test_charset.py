"""Character encodings: what is told is believed, by the letter; nothing is guessed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import Code, MeshError
from services.retriever.extraction.extract import check, extract
from services.retriever.extraction.media_type import MediaType

RUSSIAN = "Кодовое слово: мармелад."
JAPANESE = "合言葉はマーマレード①。"
FRENCH = "Un café crème à 3 €."
DECLARED = [
    ("windows-1251", "cp1251", RUSSIAN),
    ("CP1251", "cp1251", RUSSIAN),
    ("koi8-r", "koi8-r", RUSSIAN),
    ("iso-8859-5", "iso-8859-5", RUSSIAN),
    ("shift_jis", "cp932", JAPANESE),
    ("euc-kr", "cp949", "마멀레이드 뷁"),
    ("gb2312", "gbk", "密码是果酱"),
    ("big5", "big5", "密碼是果醬"),
    ("iso-8859-1", "cp1252", FRENCH),
    ("utf-16le", "utf-16-le", RUSSIAN),
    ("utf-16be", "utf-16-be", RUSSIAN),
    ("utf-8", "utf-8", RUSSIAN),
]


def read(content_type: str, content: bytes) -> str:
    """The text of a document, by way of the form in which a media type travels."""
    return extract(MediaType.of(str(MediaType.of(content_type, "a")), "a"), content)


@pytest.mark.parametrize(("label", "codec", "text"), DECLARED, ids=[d[0] for d in DECLARED])
@pytest.mark.parametrize("kind", ["text/plain", "text/markdown", "text/html"])
@pytest.mark.parametrize("form", ["{}; charset={}", '{};Charset="{}" ; x=y', "{}; a=b; CHARSET={}"])
def test_a_declared_charset_is_believed(
    kind: str, form: str, label: str, codec: str, text: str
) -> None:
    """In any spelling of the parameter, for each kind of text."""
    body = f"<p>{text}</p>" if kind == "text/html" else text
    assert read(form.format(kind, label), body.encode(codec)) == text


@pytest.mark.parametrize(
    ("mark", "codec"),
    [
        (b"\xef\xbb\xbf", "utf-8"),
        (b"\xff\xfe", "utf-16-le"),
        (b"\xfe\xff", "utf-16-be"),
        (b"\xff\xfe\0\0", "utf-32-le"),
        (b"\0\0\xfe\xff", "utf-32-be"),
    ],
)
@pytest.mark.parametrize("declared", ["text/plain", "text/plain; charset=koi8-r"])
def test_a_byte_order_mark_comes_first(mark: bytes, codec: str, declared: str) -> None:
    """Whatever else is declared."""
    assert read(declared, mark + RUSSIAN.encode(codec)) == RUSSIAN


@pytest.mark.parametrize(
    "head",
    [
        "<meta charset=windows-1251>",
        "<!-- charset=utf-8 --><META CHARSET='Windows-1251'>",
        '<meta http-equiv="Content-Type" content="text/html; charset=windows-1251">',
        "<title>charset=koi8-r</title><meta charset=klingon><meta charset=windows-1251>",
        "<?xml version='1.0' encoding='windows-1251'?>",
        "<script>" + "x" * 2000 + "</script><meta charset=windows-1251>",
    ],
)
def test_html_may_say_its_encoding(head: str) -> None:
    """Where no one else did; what stands in comments and titles says nothing."""
    page = f"{head}<p>{RUSSIAN}</p>".encode("cp1251")
    assert RUSSIAN in read("text/html", page)
    other = f"{head}<p>{RUSSIAN}</p>".encode("koi8-r")
    assert RUSSIAN in read("text/html; charset=koi8-r", other)


@pytest.mark.parametrize(
    ("declared", "content", "field", "words"),
    [
        ("text/plain", RUSSIAN.encode("cp1251"), "content", "UTF-8: byte 0 "),
        ("text/html", b"<p>caf\xe9", "content", "UTF-8: byte 6 "),
        ("text/html", b"<meta charset=klingon><p>caf\xe9", "content", "byte 28 "),
        ("text/plain; charset=shift_jis", b"ab\x81", "content", "SHIFT_JIS: byte 2 "),
        ("text/plain; charset=shift_jis", b"\x82\xa0b\xff", "content", "SHIFT_JIS: byte 3 "),
        ("text/plain; charset=utf-16le", b"a\0b", "content", "UTF-16LE: byte 2 "),
        ("text/plain; charset=utf-8", b"\xef\xbb\xbfa\xff", "content", "byte 4 "),
        ("text/html; charset=klingon", b"x", "media_type", "'klingon'"),
        ('text/plain; charset="\u00e9"', b"x", "media_type", "charset"),
    ],
)
def test_what_cannot_be_read_is_named(
    declared: str, content: bytes, field: str, words: str
) -> None:
    """The byte and the encoding, or the label: at the door already."""
    media_type = MediaType.of(declared, "a")
    for reading in (check, extract):
        with pytest.raises(MeshError) as caught:
            reading(media_type, content)
        assert (caught.value.code, caught.value.field) == (Code.INVALID_ARGUMENT, field)
        assert words in caught.value.message


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=30), st.binary(max_size=40))
def test_any_label_and_any_bytes_are_read_or_refused(label: str, content: bytes) -> None:
    """No parameter and no content is a fault of ours."""
    for kind in ("text/plain", "text/html", "text/markdown"):
        try:
            extract(MediaType.of(f"{kind}; charset={label}", "a"), content)
        except MeshError as error:
            assert error.code is Code.INVALID_ARGUMENT
