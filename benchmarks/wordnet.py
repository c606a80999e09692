"""Speed of ImageNet-21k's labels beside NLTK, each side in a fresh process; the labels are compared, not only the times.

    python benchmarks/wordnet.py                               # all of it: under a minute and 1 GB; the comparison needs NLTK and its WordNet
    python benchmarks/wordnet.py --nltk-data ../shared/nltk_data
    python benchmarks/wordnet.py --cpu                         # CPU time instead of the clock, where other work shares the machine

Both sides use one thread, so that CPU time and clock agree on an idle machine. Both run with compiled byte code, as an installer leaves
it (some containers forbid it by PYTHONDONTWRITEBYTECODE, and then most of the time goes into compiling numpy): it is written into a
temporary folder by one run of each side that does not count, but is printed as "first run, all compiled anew"."""
import argparse, json, os, subprocess, sys, time
from importlib.util import find_spec
from pathlib import Path
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
N_IMAGES = 14_200_000

# each prints seconds since its process began to run Python, the classes at every level, and a hash of the classes of every leaf at every level
HASH = """
import hashlib
def digest(levels): # for each level, for each leaf (by wnid) the sorted offsets of its classes
    h = hashlib.sha256()
    for leaves in levels:
        for o in leaves: h.update((' '.join(map(str, o))+'\\n').encode())
    return h.hexdigest()
"""

OURS = """
from time import CLOCK as now; start = now()
import numpy
numpy_ = now()-start
from granularity_nb.labels.wordnet import imagenet
h = imagenet('21k')
built = now()-start
maps = [h.level(k) for k in range(h.height+1)]
total = now()-start
""" + HASH + """
def offsets(m):
    ptr,idx,of = m.membership.indptr.tolist(),m.membership.indices.tolist(),[int(o[1:]) for o in m.vocab]
    return [sorted(of[c] for c in idx[a:b]) for a,b in zip(ptr, ptr[1:])]
import json; print(json.dumps([numpy_, built, total, [m.n_classes for m in maps], digest(map(offsets, maps))]))
"""

NLTK = """
import sys
from time import CLOCK as now; start = now()
from nltk.corpus import wordnet
wnids,height = sorted(open(sys.argv[1]).read().split()),int(sys.argv[2])
paths = [wordnet.synset_from_pos_and_offset('n', int(o[1:])).hypernym_paths() for o in wnids]
built = now()-start
levels = [[{p[max(len(p)-1-k, 0)].offset() for p in ps} for ps in paths] for k in range(height+1)]
total = now()-start
""" + HASH + """
import json; print(json.dumps([0, built, total, [len(set().union(*o)) for o in levels], digest(map(sorted, o) for o in levels)]))
"""

def fresh(code, clock, compiled, *args, **env):
    "What `code` prints as JSON in a new process, whose byte code is kept in the folder `compiled`."
    code = code.replace('CLOCK', clock.__name__)
    env = os.environ | {'PYTHONPATH':os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]), 'PYTHONPYCACHEPREFIX':str(compiled), 'PYTHONDONTWRITEBYTECODE':''} | env
    return json.loads(subprocess.run([sys.executable, '-c', code, *map(str, args)], capture_output=True, text=True, check=True, env=env).stdout)

def line(what, ours, theirs=None, goal=''):
    ratio = '' if theirs is None else f'{theirs:9.3f} s {theirs/ours:8.0f}×'
    print(f'{what:<58} {ours:9.4f} s {ratio:<21} {goal}', flush=True)

def against_nltk(now, data, repeat):
    "Import, build and cut at every level, ours against NLTK's."
    from tempfile import TemporaryDirectory
    from granularity_nb.labels.wordnet import wnids
    with TemporaryDirectory() as tmp:
        first,*ours = [fresh(OURS, now, tmp) for _ in range(1+repeat)]
        numpy_,built,total = min((o[:3] for o in ours), key=lambda o: o[2])
        counts,hash_ = first[3:]
        theirs = [[None]*3]*2
        if find_spec('nltk') is None or not (data/'corpora').exists(): print(f'no comparison: it needs nltk and its WordNet at {data} (--nltk-data)')
        else:
            (Path(tmp)/'wnids.txt').write_text('\n'.join(wnids('21k')))
            theirs = [fresh(NLTK, now, tmp, Path(tmp)/'wnids.txt', len(counts)-1, NLTK_DATA=str(data)) for _ in range(3)]
            theirs = theirs[0],min(theirs[1:], key=lambda o: o[2])
            assert all(o[3:]==[counts,hash_] for o in (*ours,*theirs)), 'the labels differ'
            print(f"classes at levels 0 to {len(counts)-1}, the same on both sides: {' '.join(map(str, counts))}")
    line('import, build ImageNet-21k', built, theirs[1][1])
    line(f'… with all {len(counts)} levels', total, theirs[1][2], goal='goal: 30×, 1 s')
    line("… without numpy's own import", total-numpy_, theirs[1][2])
    line('… first run, all compiled anew', first[2], theirs[0][2], goal='goal: 1 s')

def clock(now, f, repeat):
    "The best of some times, and the result."
    best = float('inf')
    for _ in range(repeat):
        out,start = None,now() # the last result must not weigh on the next
        out = f()
        best = min(best, now()-start)
    return best,out

def relabelling(now, repeat, n=N_IMAGES, some=100_000):
    "The classes of every image from its leaf, ours against a dictionary that is asked image by image."
    from granularity_nb.labels.wordnet import imagenet
    h = imagenet('21k')
    codes = np.random.default_rng(0).integers(0, h.n_leaves, n, dtype=np.int32)
    for k in 1,4,9:
        for m in h.level(k, 'first'),h.level(k):
            named = dict(enumerate(m[o] for o in h.leaves))
            b,want = clock(now, lambda: [named[o] for o in codes[:some].tolist()], 1)
            a,got = clock(now, lambda: m.encode(codes, sparse=m.multi), repeat)
            ptr,idx = (got.indptr,got.indices) if m.multi else (np.arange(n+1, dtype=np.int32),got)
            assert want==[tuple(m.vocab[c] for c in idx[i:j]) if m.multi else m.vocab[idx[i]] for i,j in zip(ptr[:some].tolist(), ptr[1:some+1].tolist())]
            size = (got.indptr.nbytes+got.indices.nbytes if m.multi else got.nbytes)/n
            line(f"relabel {n/1e6:.1f} M images, level {k}, {'all paths' if m.multi else 'first path'}", a, b*n/some, f'{size:.1f} bytes an image; goal: 0.5 s, 16 bytes')

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--nltk-data', type=Path, default=Path(os.environ.get('NLTK_DATA') or ROOT.parent/'shared'/'nltk_data'), help='folder with corpora/wordnet.zip')
    p.add_argument('--repeat', type=int, default=5, help='the best of so many times counts for ours')
    p.add_argument('--cpu', action='store_true', help='CPU time instead of the clock')
    args = p.parse_args()
    now = time.process_time if args.cpu else time.perf_counter
    sys.path.insert(0, str(ROOT))
    print(f'{"CPU time" if args.cpu else "clock":58} {"ours":>11} {"theirs":>11} {"ratio":>9}')
    against_nltk(now, args.nltk_data.resolve(), args.repeat)
    relabelling(now, args.repeat)
