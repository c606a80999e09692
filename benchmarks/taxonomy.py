"""Building taxonomies of iNaturalist's size, beside a pandas groupby over the same columns; the partitions are compared, not only the times.

    python benchmarks/taxonomy.py            # 10,000 species: a few seconds
    python benchmarks/taxonomy.py --small    # a tenth of them
"""
import argparse, json, os, subprocess, sys, tempfile
import numpy as np
from hierarchy import clock

RANKS = 'kingdom','phylum','class','order','family','genus','species'

def line(what, ours, theirs=None, note=''):
    ratio = '' if theirs is None else f'{theirs:9.4f} s {theirs/ours:8.2f}×'
    print(f'{what:<58} {ours:9.4f} s {ratio:<22} {note}', flush=True)

def made_up(n, seed=0):
    "Rows of seven names. There are few names at each rank, so that most of them recur under other parents."
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, [3,5,4,5,4,5], (n,6))
    return [tuple(f'{r.title()} {o}' for r,o in zip(RANKS, c))+(f'Genus {c[5]} epithet-{i}',) for i,c in enumerate(codes.tolist())]

def directories(rows): return [f"{i:05d}_{'_'.join(o.replace(' ', '') for o in r[:6])}_{r[6].split()[-1]}" for i,r in enumerate(rows)]

def categories(rows, names):
    fields = RANKS[:6]+('specific_epithet',)
    return [dict(zip(fields, name.split('_')[1:]), id=i, name=r[6], common_name='', image_dir_name=name) for i,(r,name) in enumerate(zip(rows, names))]

def same_partition(a, b):
    "Whether two arrays of class numbers group their positions in the same way."
    pairs = len(np.unique(np.c_[a, b], axis=0))
    return pairs==len(np.unique(a))==len(np.unique(b))

def ours(df):
    from granularity_nb.labels.taxonomy import table
    h = table(df, ranks=RANKS)
    return h,{r:h.rank(r) for r in RANKS}

def by_groupby(df): return {r:df.groupby(list(RANKS[:k])).ngroup().to_numpy() for k,r in enumerate(RANKS, 1)}

def from_table(rows):
    import pandas as pd
    df = pd.DataFrame(rows, columns=RANKS)
    a,(h,maps) = clock(lambda: ours(df), 3)
    b,want = clock(lambda: by_groupby(df), 3)
    leaf = h.codes(df['species'])
    for r in RANKS: assert same_partition(maps[r].codes[leaf], want[r]), r
    print(f'\n{h}\n{"":58} {"ours":>11} {"pandas":>11} {"ratio":>9}')
    line(f'DataFrame of {len(rows):,} species → tree and all seven ranks', a, b, 'pandas: group numbers only, no tree')
    one,_ = clock(lambda: [maps[r].encode(leaf) for r in RANKS], 3)
    again,_ = clock(lambda: by_groupby(df), 1)
    line('… the ranks of the rows once more', one, again)
    print('classes:', ', '.join(f'{r} {maps[r].n_classes:,} (names alone: {df[r].nunique():,})' for r in RANKS))

def from_inat(rows):
    from granularity_nb.labels.taxonomy import inat21
    names = directories(rows)
    a,t = clock(lambda: inat21(names), 3)
    b,want = clock(lambda: [len({tuple(o.split('_')[1:k+1]) for o in names}) for k in range(1, 8)], 3)
    assert [t.hierarchy.rank(r).n_classes for r in RANKS]==want
    print(f'\n{"":58} {"ours":>11} {"sets":>11} {"ratio":>9}')
    line(f'inat21: {len(names):,} directory names', a, b, 'sets: how many classes a rank has, no more')
    with tempfile.TemporaryDirectory() as d:
        for o in names:
            os.makedirs(f'{d}/val/{o}')
            open(f'{d}/val/{o}/1.jpg', 'w').close()
        with open(f'{d}/val.json', 'w', encoding='utf-8') as f: json.dump(dict(categories=categories(rows, names)), f)
        for source in 'val','val.json':
            a,got = clock(lambda: inat21(f'{d}/{source}'))
            assert got==t
            line(f'inat21: {source}', a)

def importing():
    code = 'import time; t=time.perf_counter(); from granularity_nb.labels.taxonomy import inat21; print(time.perf_counter()-t)'
    t = min(float(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout) for _ in range(3))
    line('import granularity_nb.labels.taxonomy', t, note='goal: 0.5 s')

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--small', action='store_true', help='a tenth of the size')
    rows = made_up(1000 if p.parse_args().small else 10_000)
    importing()
    from_table(rows)
    from_inat(rows)
