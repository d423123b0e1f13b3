"""Retrieval's memory by definition: the share of each image, in memory and in files of small blocks."""

import os
import tempfile

import pytest
import torch
from dense_ctx_probes import retrieval_files
from dense_ctx_probes.retrieval_bank import Bank
from dense_ctx_probes.retrieval_files import RowFile
from torch.nn import functional

from dense_ctx.errors import InputError, NotFittedError


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("size", [1, 5, 12, 13, 16, 100])
def test_shares_of_a_bank(tmp_path, monkeypatch, folder, size):
    """Each image's first rows, at most size // images; beyond `size` images later ones have none."""
    monkeypatch.setattr(retrieval_files, "_BLOCK", 2)
    bank, parts = Bank(size, folder=tmp_path if folder else None), []
    for index, count in enumerate((7, 3, 9, 1, 6, 8, 2)):
        parts.append((3 * noise(count, 4, seed=index), noise(count, 2, seed=50 + index)))
        bank.add(*parts[-1])
        assert bank.rows <= 1.25 * size
        if index in (2, 4, 6):
            share = max(1, size // len(parts))
            keys, values = bank.whole()
            torch.testing.assert_close(
                keys, torch.cat([functional.normalize(k[:share], dim=1) for k, _ in parts[:size]])
            )
            assert torch.equal(values, torch.cat([v[:share] for _, v in parts[:size]]))
            assert bank.whole()[0] is keys  # joined once
            assert bank.counts().tolist() == [min(len(k), share) for k, _ in parts[:size]] + [0] * (len(parts) - size)
    assert len(bank) == 7


@pytest.mark.parametrize("folder", [False, True])
def test_images_are_cut_together_at_a_quarter_above_the_size(tmp_path, folder):
    bank, rows = Bank(100, folder=tmp_path if folder else None), []
    for _ in range(11):
        bank.add(noise(12, 3), noise(12, 2))
        rows.append(bank.rows)
    assert rows == [*range(12, 97, 12), 96 + 100 // 9, 96 + 11 + 100 // 10, 11 * (100 // 11)]


def test_directions_and_types_of_a_bank(tmp_path):
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    for folder in (None, tmp_path):
        bank = Bank(9, folder=folder)
        with pytest.raises(NotFittedError, match="The support set is empty"):
            bank.whole()
        bank.add(rows, torch.ones(2, 3))
        torch.testing.assert_close(bank.whole()[0], torch.tensor([[0.6, 0.8], [0.0, 0.0]]))  # no direction: nothing
        with pytest.raises(InputError, match="features have 3 dimensions; those in memory 2"):
            bank.add(torch.ones(1, 3), torch.ones(1, 3))
        plain = Bank(9, torch.float16, unit=False, folder=folder)
        plain.add(rows, torch.ones(2, 3))
        assert plain.whole()[0].dtype == plain.whole()[1].dtype == torch.float16
        assert torch.equal(plain.whole()[0], rows.half())
    short = Bank(9)  # of a length that underflows
    short.add(torch.tensor([[1e-30, -1e-30]]), torch.ones(1, 1))
    assert short.whole()[0].tolist() == [[0, 0]]
    grown = Bank(9)
    grown.add(rows, torch.ones(2, 1))
    first = grown.whole()
    grown.add(rows, torch.full((2, 3), 2.0))
    assert first[1].shape == (2, 1)
    assert grown.whole()[1].tolist() == [[1, 0, 0], [1, 0, 0], [2, 2, 2], [2, 2, 2]]


@pytest.mark.parametrize("folder", [False, True])
def test_a_restored_bank_is_not_copied_and_goes_on(tmp_path, folder):
    keys, values, counts = noise(7, 3), noise(7, 2, seed=1), torch.tensor([3, 0, 4])
    bank = Bank(12, folder=tmp_path if folder else None)
    bank.add(noise(2, 3), noise(2, 2))
    bank.whole()
    bank.restore(keys, values, counts)
    assert torch.equal(bank.whole()[0], keys)
    assert torch.equal(bank.whole()[1], values)
    assert bank.counts().tolist() == [3, 0, 4]
    assert folder or bank.whole()[0].data_ptr() == keys.data_ptr()
    bank.add(torch.ones(5, 3), torch.ones(5, 2))
    assert bank.counts().tolist() == [3, 0, 3, 3]
    assert torch.equal(bank.whole()[1], torch.cat([values[:6], torch.ones(3, 2)]))
    small = Bank(3, folder=tmp_path if folder else None)
    small.restore(keys, values, counts)
    assert torch.equal(small.whole()[0], keys[[0, 3]])
    assert small.counts().tolist() == [1, 0, 1]
    for wrong in ((keys[:6], values, counts), (keys, values[:6], counts), (keys, values, counts[:2])):
        with pytest.raises(InputError, match="a bank of"):
            bank.restore(*wrong)


def test_rows_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval_files, "_BLOCK", 3)
    opened, make = [], tempfile.mkstemp
    monkeypatch.setattr(tempfile, "mkstemp", lambda **args: opened.append(make(**args)) or opened[-1])
    file = RowFile(tmp_path / "a/b", "keys", torch.float32)
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(opened[0][0])  # closed
    rows = noise(20, 3)
    for part in (rows[:7], rows[7:8], rows[8:]):
        file.append(part)
    assert (file.rows, file.width) == (20, 3)
    assert torch.equal(file.view(), rows)
    with pytest.raises(InputError, match="rows of 2 numbers, where the file has 3"):
        file.append(rows[:, :2])
    counts, quotas = [7, 1, 0, 12], [2, 1, 0, 9]
    file.keep(counts, quotas)
    assert file.rows == 12
    assert torch.equal(file.view(), torch.cat([rows[:2], rows[7:8], rows[8:17]]))
    assert file.path.stat().st_size == 12 * 3 * 4
    file.append(rows[:1])
    assert torch.equal(file.view()[12:], rows[:1])
    file.clear()
    assert (file.rows, file.width, file.path.stat().st_size) == (0, None, 0)
    file.append(rows[:, :2])
    assert torch.equal(file.view(), rows[:, :2])
    path = file.path
    assert path.name.startswith("bank-keys-")
    assert path.suffix == ".bin"
    del file
    assert not path.exists()


def test_a_part_that_moves_by_less_than_a_block_leaves_the_next_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval_files, "_BLOCK", 3)
    file, rows = RowFile(tmp_path, "keys", torch.float32), noise(12, 3)
    file.append(rows)
    file.keep([3, 4, 5], [2, 4, 5])
    assert torch.equal(file.view(), torch.cat([rows[:2], rows[3:]]))
