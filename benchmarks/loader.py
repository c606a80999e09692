"""Batches gathered in one go (`GatherDL`) against fastai's item-by-item loader on the same images; the same batches on both sides, checked.

python benchmarks/loader.py"""
import time
import torch
from fastai.data.core import TfmdDL
from granularity_nb.data.block import GatherDL, dataloaders
from granularity_nb.data.source import Source


def epoch(dl):
    start = time.perf_counter()
    batches = [(b[0], b[1]) for b in dl]
    return time.perf_counter()-start, batches


def main():
    torch.set_num_threads(1)
    source = Source.open('glyphs', n_train=4000, n_valid=100, n_test=100)
    ds = dataloaders(source, source.target).train_ds
    times = {GatherDL: [], TfmdDL: []}
    for _ in range(5): # alternating, so that both see the same disturbances
        got = {}
        for cls in times:
            t,got[cls] = epoch(cls(ds, bs=64, num_workers=0))
            times[cls].append(t)
        assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a,b in zip(got[GatherDL], got[TfmdDL], strict=True))
    fast,slow = (sorted(times[o])[2] for o in (GatherDL, TfmdDL))
    for name,t in (('gathered', fast), ('item by item', slow)): print(f'{name:>14}: {len(ds)/t:10,.0f} images/s (median of 5)')
    print(f'         ratio: {slow/fast:.1f}')


if __name__ == '__main__': main()
