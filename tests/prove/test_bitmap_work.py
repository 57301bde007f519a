"""What calls do to bitmaps is kept in short, with the call in which a removed one began."""

from __future__ import annotations

from blkxact.prove.bitmap_work import (
    ABDICATED,
    REMOVE_INCONSISTENT,
    BitmapStory,
    BitmapWork,
    removal_of,
)


def test_removed_bitmap_is_named_by_the_call_since_which_it_has_recorded():
    story = BitmapStory()
    story.note(BitmapWork("add", "vda", "a"))
    story.note(BitmapWork("add", "vda", "b", alone=True))
    assert story.take() == ("add in a transaction", "add")
    story.note(BitmapWork("clear", "vda", "b"))
    assert story.take() == ("clear in a transaction",)
    story.note(BitmapWork(ABDICATED, "vda", "a"))
    assert story.take() == ("abdicated",)
    for name in ("a", "b", "of-another-tool"):
        story.note(BitmapWork("remove", "vda", name, alone=True))
    assert story.take() == (removal_of(3), removal_of(2), "remove")


def test_inconsistent_bitmap_that_is_removed_is_worth_nothing():
    story = BitmapStory()
    story.note(BitmapWork("add", "vda", "a"))
    story.note(BitmapWork("remove", "vda", "a", inconsistent=True))
    assert story.take() == ("add in a transaction", REMOVE_INCONSISTENT)


def test_what_is_done_to_several_disks_is_one_line():
    story = BitmapStory()
    for disk in ("vda", "vdb"):
        story.note(BitmapWork("add", disk, "a"))
    assert story.take() == ("add in a transaction",)
    assert story.take() == ()
