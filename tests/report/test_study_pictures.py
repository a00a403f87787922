"""How the pictures of a study tell methods apart."""

from pass_transfer.report.study_pictures import COLOURS, _looks


def test_many_methods_are_told_apart_by_more_than_colour():
    looks = _looks(f"method_{n}" for n in range(4 * len(COLOURS)))
    assert len(set(looks.values())) == len(looks)
    some = list(looks.values())[: 2 * len(COLOURS)]
    uncoloured = {(look.marker, look.fillstyle) for look in some}
    assert len(uncoloured) == len(some), "in black and white too"
    assert _looks(["a", "b", "a"]) == _looks(["a", "b"])
