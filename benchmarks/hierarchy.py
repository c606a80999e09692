"""Speed and memory of Hierarchy and LabelMap, beside plain Python that walks every path; the results are compared, not only the times.

    python benchmarks/hierarchy.py           # all of it: about a minute and 1 GB
    python benchmarks/hierarchy.py --small   # a tenth of the size
"""
import argparse, subprocess, sys, time
from itertools import combinations
import numpy as np

def clock(f, repeat=1):
    "The best of some times, and the result."
    best = float('inf')
    for _ in range(repeat):
        t = time.perf_counter()
        out = f()
        best = min(best, time.perf_counter()-t)
    return best,out

def line(what, ours, theirs=None, goal=''):
    ratio = '' if theirs is None else f'{theirs:9.3f} s {theirs/ours:8.0f}×'
    print(f'{what:<58} {ours:9.4f} s {ratio:<21} {goal}', flush=True)

def random_dag(n_leaves, n_inner, parents=3, seed=0):
    "(child, parent) names: a random recursive tree of inner nodes; every leaf has some of them as parents."
    rng = np.random.default_rng(seed)
    inner,leaf = [f'inner {i:07d}' for i in range(n_inner)],[f'leaf {i:07d}' for i in range(n_leaves)]
    above = (np.arange(1, n_inner)*rng.random(n_inner-1)).astype(int)
    step = rng.integers(1, n_inner//parents, (n_leaves, parents))
    over = (rng.integers(0, n_inner, (n_leaves,1))+np.cumsum(step, 1))%n_inner
    return [(inner[i+1],inner[p]) for i,p in enumerate(above)] + [(leaf[i],inner[p]) for i,row in enumerate(over) for p in row]

def walk(parents, leaves, k):
    "Level k in plain Python: the k-th node of every path."
    def up(node, k): return {o for p in parents.get(node, ()) for o in up(p, k-1)} if k and node in parents else {node}
    return {o:up(o, k) for o in leaves}

def lca_pairs(parents, pairs):
    "LCA path distance in plain Python, pair by pair."
    def ways(node):
        d,front,i = {},{node},0
        while front:
            for o in front: d.setdefault(o, i)
            front,i = {p for o in front for p in parents.get(o, ())},i+1
        return d
    out = []
    for a,b in pairs:
        da,db = ways(a),ways(b)
        out.append(min(da[o]+db[o] for o in da.keys()&db.keys()))
    return out

def side_by_side(n):
    from granularity_nb.labels.hierarchy import Hierarchy
    edges = random_dag(n, n//3)
    parents = {}
    for c,p in edges: parents.setdefault(c, []).append(p)
    h = Hierarchy.from_edges(edges)
    print(f'\n{h}\n{"":58} {"ours":>11} {"plain":>11} {"ratio":>9}')
    for k in 1,3,6:
        # a hierarchy remembers its last climb, so each repeat gets a new one, built outside the clock
        a,m = min((clock(lambda new=Hierarchy.from_edges(edges): new.level(k)) for _ in range(3)), key=lambda o: o[0])
        b,want = clock(lambda: walk(parents, h.leaves, k))
        assert all(({m[o]} if isinstance(m[o], str) else set(m[o]))==want[o] for o in h.leaves)
        line(f'level {k}, all paths: {m.n_classes:,} classes', a, b)
    some = list(combinations(h.leaves[::max(n//40, 1)], 2))
    a,got = clock(lambda: h.lca_distance([p for p,_ in some], [q for _,q in some]))
    b,want = clock(lambda: lca_pairs(parents, some))
    assert got.tolist()==want
    line(f'LCA distance of {len(some):,} pairs', a, b)
    return h

def encoding(h, n):
    codes = np.random.default_rng(0).integers(0, h.n_leaves, n).astype(np.int32)
    m = h.level(3, 'first')
    a,got = clock(lambda: m.encode(codes), 5)
    b,want = clock(lambda: [m.codes[i] for i in codes[:100_000]])
    assert got[:100_000].tolist()==want
    line(f'encode {n:,} leaf codes, one path', a, b*n/100_000, 'plain: scaled up from 100,000')
    a,got = clock(lambda: h.level(3).encode(codes, sparse=True), 3)
    line(f'encode {n:,} leaf codes, all paths, sparse', a, goal=f'{(got.indptr.nbytes+got.indices.nbytes)/n:.1f} bytes an image')

def readouts(h):
    m,t = h.cut(h.n_leaves),h.cut(100)
    x = np.log(np.random.default_rng(0).dirichlet(np.ones(m.n_classes), 64).astype(np.float32)+1e-12)
    parent = m.parents_in(t)
    a,got = clock(lambda: m.log_readout(x, t), 3)
    b,want = clock(lambda: np.stack([np.logaddexp.reduce(x[:,parent==c], axis=1) for c in range(t.n_classes)], 1))
    assert np.allclose(got, want, atol=1e-4)
    line(f'log read-out of 64 × {m.n_classes:,} → {t.n_classes} classes', a, b)

def lca_matrix(n):
    from granularity_nb.labels.hierarchy import Hierarchy
    h = Hierarchy.from_edges(random_dag(n, n//2, 2))
    a,d = clock(h.lca_distance)
    i,j = np.random.default_rng(0).integers(0, n, (2,1000))
    assert (h.lca_distance(i, j)==d[i,j]).all()
    line(f'LCA distance of {n:,} leaves: one {d.dtype} matrix, {d.nbytes/1e6:.0f} MB', a, goal='goal: one int8 or int16 matrix')

BUILD = """
import resource, sys, time
sys.path.insert(0, {folder!r})
from hierarchy import random_dag
from granularity_nb.labels.hierarchy import Hierarchy
edges = random_dag({n}, {n}//10)
t = time.perf_counter()
h = Hierarchy.from_edges(edges)
t = time.perf_counter()-t
print(t, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(2**30 if sys.platform=='darwin' else 2**20), len(edges))
for what,f in dict(level=lambda: h.level(3), depth=lambda: h.depth(3), cut=lambda: h.cut(1000)).items():
    t = time.perf_counter()
    m = f()
    print(what, time.perf_counter()-t, m.n_classes)
"""

def building(n):
    "In a process of its own, for its peak memory."
    from pathlib import Path
    code = BUILD.format(folder=str(Path(__file__).parent.resolve()), n=n)
    head,*rest = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.splitlines()
    t,gib,edges = map(float, head.split())
    line(f'build {n:,} leaves, {edges:,.0f} edges from name pairs', t, goal=f'peak {gib:.2f} GiB with the pairs; goal: 10 s, 1.5 GB')
    for o in rest:
        what,t,classes = o.split()
        line(f'… {what}: {int(classes):,} classes', float(t))

def importing():
    code = 'import time; t=time.perf_counter(); import granularity_nb.labels.hierarchy; print(time.perf_counter()-t)'
    t = min(float(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout) for _ in range(3))
    line('import granularity_nb.labels.hierarchy', t, goal='goal: 0.5 s')

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--small', action='store_true', help='a tenth of the size')
    scale = 10 if p.parse_args().small else 1
    importing()
    building(1_000_000//scale) # first: a child's peak memory counts from its parent's
    h = side_by_side(20_000//scale)
    encoding(h, 1_000_000//scale)
    encoding(h, 14_200_000//scale)
    readouts(h)
    lca_matrix(10_000//scale)
