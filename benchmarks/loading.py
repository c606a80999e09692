"""Images a second of whole training steps, by loader, as ratios to the compute limit (the same step on one batch that is there already).

The same images, model, batch size and augmentation for all, Tiny-ImageNet at 32×32; rounds are interleaved, and each ratio is the
median over rounds of loader ÷ limit in the same round, so that a busy machine slows both sides.

python benchmarks/loading.py --data …/tiny-imagenet-200-32px                  # loaders, on one core
python benchmarks/loading.py --data … --device cuda --model timm:resnet18 --bs 512 --profile
python benchmarks/loading.py --data … --only alone store index                # loading alone; storing; an index of 14.2 million files"""
import argparse, os, random, statistics, sys, tempfile, time
from itertools import islice
from pathlib import Path
from PIL import Image

for o in ('OMP_NUM_THREADS','MKL_NUM_THREADS'): os.environ.setdefault(o, '1')
import numpy as np, torch
from torch.nn import functional as F
from granularity_nb.data.block import augmentation, dataloaders
from granularity_nb.data.source import Files, Source, Split
from granularity_nb.data.store import Store, store
from granularity_nb.labels.hierarchy import Hierarchy
from granularity_nb.training.backbone import Classifier, create_backbone


def names_of(root):
    "Training images of Tiny-ImageNet, and the number of each one's class."
    names = [f'train/{w.name}/images/{f.name}' for w in sorted(os.scandir(root/'train'), key=lambda o: o.name) for f in sorted(os.scandir(Path(w)/'images'), key=lambda o: o.name)]
    wnids = sorted({n.split('/')[1] for n in names})
    return names, np.array([wnids.index(n.split('/')[1]) for n in names]), wnids


def source_of(root, n, cache):
    "A source over `n` training images, from a store."
    names,leaf,wnids = names_of(root)
    some = np.sort(np.random.default_rng(0).permutation(len(names))[:n])
    st = store([names[i] for i in some], cache, root, 32)
    h = Hierarchy.from_edges([(o, 'thing') for o in wnids])
    code = {o: i for i,o in enumerate(h.leaves)}
    leaf = np.array([code[wnids[leaf[some[r]]]] for r in st.rows])
    return Source('tiny', h, dict(train=Split(st.array, leaf)), h.level(0)), [str(root/names[some[r]]) for r in st.rows]


# ---- the loaders, each an endless stream of (images on the device, labels)

def endless(dl):
    while True: yield from dl


def ours(source, files, a, **kw):
    dls = dataloaders(source, source.target, bs=a.bs, valid=None, augment=a.augment, device=a.device, **kw)
    dls.train.drop_last = True
    return endless(dls.train)


def stock(source, files, a, items, workers=0):
    "fastai's DataBlock from the JPEG files: transforms a batch or an item at a time."
    from fastai.vision.all import CategoryBlock, DataBlock, ImageBlock, Normalize, RandomCrop, FlipItem, Transform
    from fastai.vision.augment import CropPad, PadMode
    class Pad(Transform):
        order = 0
        def encodes(self, x:Image.Image): return CropPad(40, pad_mode=PadMode.Reflection)(x)
    norm = Normalize.from_stats(*source.split('train').stats, cuda=False)
    block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=lambda _: files, get_y=lambda o: Path(o).parent.parent.name, splitter=lambda o: (list(range(len(o))), []),
                      item_tfms=[Pad, RandomCrop(32), FlipItem()] if items else None, batch_tfms=[norm] if items else [*augmentation(a.augment), norm])
    dls = block.dataloaders(None, bs=a.bs, num_workers=workers, device=torch.device(a.device))
    return endless(dls.train)


def vision(source, files, a, workers):
    "torchvision's transforms and torch's DataLoader, from the JPEG files."
    from torchvision.transforms import v2
    t = v2.Compose([v2.ToImage(), v2.RandomCrop(32, padding=4, padding_mode='reflect'), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*source.split('train').stats)])
    leaf = source.split('train').leaf
    class Set(torch.utils.data.Dataset):
        def __len__(self): return len(files)
        def __getitem__(self, i): return t(Image.open(files[i]).convert('RGB')), int(leaf[i])
    dl = torch.utils.data.DataLoader(Set(), a.bs, shuffle=True, num_workers=workers, drop_last=True, pin_memory=a.device != 'cpu', persistent_workers=workers > 0)
    return ((x.to(a.device, non_blocking=True), y.to(a.device, non_blocking=True)) for x,y in endless(dl))


LOADERS = {'ours': ours, 'ours, made ahead by a thread': lambda *o: ours(*o, prefetch=2), 'fastai DataBlock, batch transforms': lambda *o: stock(*o, items=False),
           'fastai DataBlock, item transforms': lambda *o: stock(*o, items=True), 'torchvision, 0 workers': lambda *o: vision(*o, workers=0), 'torchvision, 2 workers': lambda *o: vision(*o, workers=2)}


# ---- whole training steps

def stepper(a, classes):
    torch.manual_seed(0)
    net = Classifier(create_backbone(a.model, 3), classes).to(a.device, memory_format=torch.channels_last)
    opt = torch.optim.SGD(net.parameters(), .01, .9)
    def step(x, y):
        with torch.autocast(torch.device(a.device).type, torch.bfloat16, enabled=a.bf16): loss = F.cross_entropy(net(x.as_subclass(torch.Tensor)), y.as_subclass(torch.Tensor))
        loss.backward()
        opt.step()
        opt.zero_grad()
    return step


def rate(a, step, batches, k):
    "Images a second of `k` steps."
    if a.device != 'cpu': torch.cuda.synchronize()
    start = time.perf_counter()
    for x,y in islice(batches, k): step(x, y)
    if a.device != 'cpu': torch.cuda.synchronize()
    return k*a.bs/(time.perf_counter()-start)


def same_batch(source, a):
    "All get the same kind of batch: shape, number format, mean about 0 and deviation about 1."
    def check(name, x, y):
        assert tuple(x.shape) == (a.bs,3,32,32) and x.dtype == torch.float32 and len(y) == a.bs, name
        assert abs(float(x.mean())) < .5 and .5 < float(x.std()) < 1.5, (name, float(x.mean()), float(x.std()))
    return check


def training(a, source, files):
    step = stepper(a, source.target.n_classes)
    check = same_batch(source, a)
    streams = {k: f(source, files, a) for k,f in LOADERS.items()}
    fixed = None
    for k,s in streams.items():
        x,y = next(s)
        check(k, x, y)
        if k == 'ours': fixed = x.clone(),y.clone()
    forever = iter(lambda: fixed, None)
    rate(a, step, forever, 10) # warm
    ratios,limits,rates = {k: [] for k in streams},[],{k: [] for k in streams}
    for _ in range(a.rounds):
        for k,s in streams.items():
            before = rate(a, step, forever, a.steps)
            r = rate(a, step, s, a.steps)
            after = rate(a, step, forever, a.steps)
            limits += [before, after]
            ratios[k].append(2*r/(before+after)); rates[k].append(r)
    print(f"{a.model}, batches of {a.bs}, {a.augment}, {a.device} ({torch.get_num_threads()} thread): compute limit {statistics.median(limits):,.0f} images/s")
    for k in streams: print(f'{k:>36}: {statistics.median(ratios[k]):5.2f} of the limit (from {min(ratios[k]):.2f} to {max(ratios[k]):.2f}), {statistics.median(rates[k]):9,.0f} images/s')


# ---- the parts

def alone(a, source, files):
    "Loading alone, CPU seconds of this process."
    for spec in ('none', 'crop:4+flip', 'rrc:0.35+flip', 'crop:4+flip+color:0.4'):
        a2 = argparse.Namespace(**dict(vars(a), augment=spec, device='cpu'))
        s = ours(source, files, a2)
        next(s)
        best = 0
        for _ in range(5):
            start = time.process_time()
            for _ in islice(s, 60): pass
            best = max(best, 60*a.bs/(time.process_time()-start))
        print(f'loading alone, {spec:>22}: {best:10,.0f} images/s and core (best of 5, CPU time)')


def storing(a):
    "Tiny-ImageNet once, on one core."
    root = Path(a.data)
    names = names_of(root)[0]+[f'val/images/{f.name}' for f in sorted(os.scandir(root/'val'/'images'), key=lambda o: o.name)]
    with tempfile.TemporaryDirectory() as tmp:
        def timed(what, f):
            wall,cpu = time.perf_counter(),time.process_time()
            r = f()
            print(f'{what:>40}: {time.perf_counter()-wall:6.2f} s, CPU {time.process_time()-cpu:6.2f} s')
            return r
        st = timed(f'{len(names):,} files decoded and stored', lambda: store(names, tmp, root, 32, workers=1, progress=False))
        for _ in range(2): timed('opened, each file looked at again', lambda: store(names, tmp, root, 32, progress=False))
        timed('opened by its folder', lambda: Store(st.folder).array[0])
        import granularity_nb.data.store as m
        m.simplejpeg = None
        timed('with Pillow alone', lambda: store(names, tmp+'/pillow', root, 32, workers=1, progress=False))


INDEX = """
import resource, sys, time
start = time.perf_counter()
import numpy as np
from granularity_nb.data.source import Files
from granularity_nb.data.stream import FileImages
t,cpu = time.perf_counter(),time.process_time()
f = Files.load(sys.argv[1], '/images')
x = FileImages(f, 224)
assert len(x) == 14_200_000 and f[14_199_999].endswith('.JPEG')
print(f'{time.perf_counter()-t:.2f} s, CPU {time.process_time()-cpu:.2f} s ({t-start:.1f} s of imports before), peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20:.2f} GiB')
"""


def index():
    "A list of 14.2 million files, opened from Parquet in a fresh process."
    import subprocess
    n,classes = 14_200_000,21_841
    folder = np.sort(np.random.default_rng(0).integers(0, classes, n)).astype(np.int32)
    folders = [f'n{10_000_000+i:08}' for i in range(classes)]
    digits = np.arange(n)
    name = np.empty((n, 23), np.uint8)
    name[:] = np.frombuffer(b'n00000000_00000000.JPEG', np.uint8)
    for k in range(8):
        name[:,8-k] = 48+(10_000_000+folder)//10**k%10
        name[:,17-k] = 48+digits//10**k%10
    f = Files('/images', folders, folder, name.view('S23').ravel(), np.full(n, 110_000))
    with tempfile.TemporaryDirectory() as tmp:
        start = time.perf_counter()
        f.save(Path(tmp)/'list.parquet')
        print(f'{n:,} files: Parquet of {(Path(tmp)/"list.parquet").stat().st_size/1e6:,.0f} MB written in {time.perf_counter()-start:.1f} s; opened in', end=' ', flush=True)
        subprocess.run([sys.executable, '-c', INDEX, str(Path(tmp)/'list.parquet')], check=True)


def profiled(a, source, files):
    "Where the time of ours goes."
    from torch.profiler import ProfilerActivity, profile
    step,s = stepper(a, source.target.n_classes),ours(source, files, a)
    rate(a, step, s, 10)
    with profile(activities=[ProfilerActivity.CPU]+([ProfilerActivity.CUDA] if a.device != 'cpu' else [])) as p: rate(a, step, s, 20)
    print(p.key_averages().table(sort_by='self_cpu_time_total' if a.device == 'cpu' else 'self_cuda_time_total', row_limit=20, max_name_column_width=50))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', required=True, help='the folder tiny-imagenet-200-32px')
    p.add_argument('--only', nargs='*', default=['training','alone'], choices=['training','alone','store','index'])
    p.add_argument('--n', type=int, default=20_000, help='training images')
    p.add_argument('--model', default='small')
    p.add_argument('--bs', type=int, default=64)
    p.add_argument('--augment', default='crop:4+flip')
    p.add_argument('--steps', type=int, default=40, help='steps of each measurement')
    p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--device', default='cpu')
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--bf16', action='store_true')
    p.add_argument('--profile', action='store_true')
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    random.seed(0)
    if {'training','alone'} & {*a.only} or a.profile:
        with tempfile.TemporaryDirectory() as cache:
            source,files = source_of(Path(a.data), a.n, cache)
            if 'training' in a.only: training(a, source, files)
            if 'alone' in a.only: alone(a, source, files)
            if a.profile: profiled(a, source, files)
    if 'store' in a.only: storing(a)
    if 'index' in a.only: index()


if __name__ == '__main__': main()
