import pytest

from finery_inference.engines.token_bytes import TokenBytes, byte_names

BYTE_LEVEL = {name: byte for byte, name in enumerate(byte_names())}
SENTENCE_PIECE = {f"<0x{byte:02X}>": byte for byte in range(256)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Ġthe", b" the"),
        ("Ċ", b"\n"),
        ("Ãł", "à".encode()),
        ("Ã", b"\xc3"),
        ("<|im_end|>", b"<|im_end|>"),
        ("<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>".encode()),
    ],
)
def test_byte_level_tokens(text: str, said: bytes) -> None:
    assert TokenBytes({**BYTE_LEVEL, text: 300}).of(300) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [("▁the", b" the"), ("▁▁", b"  "), ("é", "é".encode()), ("<s>", b"<s>"), ("<0x0G>", b"<0x0G>")],
)
def test_sentence_piece_tokens(text: str, said: bytes) -> None:
    tokens = TokenBytes({**SENTENCE_PIECE, text: 300})
    assert tokens.of(300) == said
    assert tokens.of(0xC3) == b"\xc3"


def test_every_byte_has_its_name() -> None:
    tokens = TokenBytes(BYTE_LEVEL)
    assert [tokens.of(byte) for byte in range(256)] == [bytes([byte]) for byte in range(256)]
    assert tokens.of(256) == b""
