"""Rows that are durable, in order, and show it when somebody changed them."""

import sqlite3
import threading
import time

import pytest

from hushgrad.errors import InputError, LedgerError
from hushgrad.training.journal import Journal


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'j.sqlite'}"


def journal(url, name="a", patience=2.0):
    seen = []
    made = Journal(url, name, seen.append, patience)
    made.refresh()
    return made, seen


def add(made, *numbers):
    made.write(lambda: [("charge", {"step": n}) for n in numbers])


def test_rows_come_back_in_order_to_everybody(url):
    one, seen = journal(url)
    other, heard = journal(url)
    add(one, 1, 2)
    add(other, 3)
    add(one, 4)
    other.refresh()
    assert seen == heard
    assert [e.content["step"] for e in seen] == [1, 2, 3, 4]
    assert [e.number for e in seen] == [1, 2, 3, 4]
    assert one.head == other.head == seen[-1].digest
    again, read = journal(url)
    assert read == seen
    assert again.head == one.head
    for j in (one, other, again):
        j.close()


def test_journals_do_not_mix(url):
    one, seen = journal(url, "a")
    other, heard = journal(url, "b")
    add(one, 1)
    add(other, 2)
    one.refresh()
    assert (len(seen), len(heard)) == (1, 1)
    assert one.head != other.head


def test_a_writer_sees_all_earlier_rows_before_it_decides(url):
    one, seen = journal(url)
    other, _ = journal(url)
    add(other, 1)
    known = []
    one.write(lambda: known.append(len(seen)) or [("charge", {"step": 2})])
    assert known == [1]


def test_nothing_is_written_where_deciding_fails(url):
    one, _ = journal(url)

    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        one.write(fail)
    other, seen = journal(url)
    add(other, 1)
    assert len(seen) == 1


TAMPERED = {
    "content": "update entries set content = '{\"step\":9}' where number = 2",
    "time": "update entries set written_at = '2000' where number = 1",
    "kind": "update entries set kind = 'note' where number = 3",
    "taken out": "delete from entries where number = 2",
    "first taken out": "delete from entries where number = 1",
    "put in": "insert into entries select journal, 4, kind, content, written_at, digest "
    "from entries where number = 3",
    "moved": "update entries set number = 4 where number = 3",
    "no text": "update entries set content = 'x' where number = 2",
}


@pytest.mark.parametrize("how", TAMPERED)
def test_changed_rows_show(url, how):
    made, _ = journal(url)
    add(made, 1, 2, 3)
    made.close()
    with sqlite3.connect(url.removeprefix("sqlite:///")) as database:
        database.execute(TAMPERED[how])
    with pytest.raises(LedgerError, match=r"changed the ledger|cannot be read"):
        journal(url)


def test_a_locked_database_is_waited_for(url):
    made, seen = journal(url, patience=20.0)
    holder = sqlite3.connect(
        url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False
    )
    holder.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.5, lambda: holder.execute("ROLLBACK"))
    release.start()
    add(made, 1)
    release.join()
    assert len(seen) == 1


def test_and_given_up_with_a_message(url, monkeypatch):
    made, seen = journal(url, patience=0.2)
    with made._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=50")
    holder = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(LedgerError, match=r"cannot be used: database is locked; mend that"):
        add(made, 1)
    assert time.monotonic() - began < 30
    assert not seen


def test_a_disk_that_is_full(url):
    made, seen = journal(url)
    with made._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=3")
    with pytest.raises(LedgerError, match="database or disk is full; mend that"):
        add(made, *range(2000))
    assert not seen
    made.close()
    again, read = journal(url)
    add(again, 1)
    assert len(read) == 1


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("nonsense", "url must be a database's address"),
        ("mysql://host/db", "url must be of SQLite or PostgreSQL"),
        (None, "url must be"),
    ],
)
def test_addresses_that_are_none(address, told):
    with pytest.raises(InputError, match=told):
        Journal(address, "a", lambda e: None, 1.0)


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(LedgerError, match="unable to open database file"):
        Journal(f"sqlite:///{tmp_path}/none/j.sqlite", "a", lambda e: None, 0.1)


def test_a_password_is_not_shown():
    with pytest.raises(LedgerError) as caught:
        Journal("postgresql://me:secret@127.0.0.1:1/none", "a", lambda e: None, 0.1)
    assert "secret" not in str(caught.value)
