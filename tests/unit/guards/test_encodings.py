"""The encoding that bytes look like."""

import pytest

from pipeline_tasks.guards.encodings import likely_encoding, wide_encoding

LOOKS = [
    ("gb18030", "订单号,金额,国家,标签\n1,2,中国,是\n", "GB18030 (GBK, GB2312) or Big5"),
    ("gb18030", "这部电影很好看我非常喜欢", "GB18030 (GBK, GB2312)"),
    ("big5", "這部電影很好看我非常喜歡", "GB18030 (GBK, GB2312) or Big5"),
    ("euc_kr", "안녕하세요 영화가 좋았습니다", "EUC-KR or GB18030 (GBK, GB2312)"),
    ("shift_jis", "この映画はとても良かった", "Shift JIS"),
    ("euc_jp", "この映画はとても良かった", "EUC-JP or Big5"),
    ("cp1251", "привет мир, как дела", "Windows-1251"),
    ("cp1252", "größe,naïve café", "Windows-1252 or Latin-1"),
    ("latin-1", "Müller", "Windows-1252 or Latin-1"),
    ("koi8-r", "привет мир, как дела", "bytes 0xd0 0xd2 0xc9 0xd7"),
    ("utf-16", "a,b\n", "UTF-16"),
    ("utf-32", "a,b\n", "UTF-32"),
    ("utf-16-le", "编号,文本\n1,一部电影\n", "UTF-16 (little endian)"),
    ("utf-16-be", "编号,文本\n1,一部电影\n", "UTF-16 (big endian)"),
    ("ascii", "plain", "other bytes"),
]


@pytest.mark.parametrize(("codec", "text", "looks"), LOOKS)
def test_what_bytes_look_like(codec, text, looks):
    assert likely_encoding(text.encode(codec)) == looks


def test_a_sample_that_ends_within_a_letter_looks_the_same():
    assert likely_encoding("这部电影很好看我非常喜欢".encode("gb18030")[:-1]) == "GB18030 (GBK, GB2312)"


@pytest.mark.parametrize("data", [b"", b"a,b\n", b"a\0b", b"a\0b\nc\0\0d\n", "größe".encode()])
def test_what_is_not_wide(data):
    assert wide_encoding(data) is None
