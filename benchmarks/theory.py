"""Speed of the theory's fast engine: against loops over classes and against batched autograd, the same steps on the same samples; whole
training steps, with drawing, for ten seeds stacked; and seeds stacked against one after another. Every row compares results before
times; times are of the processor.

What to expect: the engine's products are smaller by the share of patches that hold a feature, 2s*/P, so a third at P = 32 and a tenth at
P = 128. At P = 32 that alone is a factor of 2.7; what goes beyond it is memory that autograd fills and the engine does not.

    python benchmarks/theory.py           # a minute or two on one core
    python benchmarks/theory.py --small   # fewer repeats
"""
import argparse, time
import torch
import torch.nn.functional as F
from granularity_nb.theory.multiview import MultiView, Stream
from granularity_nb.theory.network import new_net
from granularity_nb.theory.training import _Feed, _fill, _update, coarse, fine, pretrain_net

def batches(mv, labels, n, steps, background):
    "The same samples for all: patches as rows (fast), or all of them as (n, P, d)."
    feed,out = _Feed(mv, [Stream(0)], n, labels),[]
    for t in range(steps):
        y,*parts = feed()
        rows,owner = _fill(mv, feed.streams, n, *parts, torch.float32, None, t if background else None)
        if background: rows = rows[:,owner[0].argsort(stable=True)].view(n, mv.P, mv.d)
        out.append((rows, owner, y))
    return out

def naive(net, data, lr, decay):
    "As the formula reads: class by class, ReLU over all patches, autograd for the gradient."
    m = net.m
    ws,bs = [o.clone().requires_grad_() for o in net.w[0].split(m)],list(net.b[0].clone().split(m))
    for X,_,y in data:
        logits = torch.stack([torch.relu(X @ w.T+b).sum((1,2)) for w,b in zip(ws, bs)], 1)
        loss = F.cross_entropy(logits, y[0])
        for c,g in enumerate(torch.autograd.grad(loss, ws)):
            with torch.no_grad():
                ws[c] -= lr*g
                bs[c] -= decay*(lr*g).norm(dim=-1)
    return torch.cat(ws).detach()

def loops(net, data, lr, decay):
    "Class by class and sample by sample, the gradient in closed form."
    C,m = net.n_classes,net.m
    w,b = net.w[0].clone().split(m),net.b[0].clone().split(m)
    for X,_,y in data:
        z = [[x @ w[c].T+b[c] for c in range(C)] for x in X]
        q = torch.stack([torch.stack([torch.relu(o).sum() for o in row]) for row in z]).softmax(1)
        for c in range(C):
            g = sum((q[i,c]-(y[0,i]==c).float())*((z[i][c]>0).float().T @ X[i]) for i in range(len(X)))/len(X)
            w[c].sub_(lr*g)
            b[c].sub_(decay*(lr*g).norm(dim=-1))
    return torch.cat(w)

def autograd(net, data, lr, decay):
    "All classes in one product, all patches, gradient by autograd."
    w,b = net.w[0].clone().requires_grad_(),net.b[0].clone()
    for X,_,y in data:
        logits = torch.relu(X @ w.T+b).sum(1).view(len(X), net.n_classes, -1).sum(-1)
        g, = torch.autograd.grad(F.cross_entropy(logits, y[0]), w)
        with torch.no_grad():
            w -= lr*g
            b -= decay*(lr*g).norm(dim=-1)
    return w.detach()

def fast(net, data, lr, decay):
    net = net[[0]]
    for rows,owner,y in data: _update(net, rows, owner, y, lr, decay)
    return net.w[0]

def clock(f, *args, repeat):
    best = float('inf')
    for _ in range(repeat):
        t = time.process_time()
        out = f(*args)
        best = min(best, time.process_time()-t)
    return best,out

def engines(repeat, steps=6, n=64):
    print(f"{'one step, ms':34}{'fast':>9}{'autograd':>10}{'by class':>10}{'loops':>10}{'autograd÷':>11}{'by class÷':>11}{'loops÷':>9}   largest difference of weights")
    for k,P in (2,32),(8,32),(32,32),(8,128):
        mv = MultiView(k=k, P=P)
        for name,labels in dict(coarse=coarse(mv), fine=fine(mv)).items():
            net = new_net(mv, labels.n_classes, seeds=(0,))
            sparse,full = (batches(mv, labels, n, steps, o) for o in (False,True))
            t,want = clock(fast, net, sparse, .01, .05, repeat=repeat)
            times,gap = [],0.
            for f in autograd,naive,loops:
                u,got = clock(f, net, full, .01, .05, repeat=1 if f is loops else repeat)
                times.append(u)
                gap = max(gap, (got-want).abs().max().item())
            assert gap<1e-5, gap
            print(f'k = {k:2}, P = {P:3}, {name:6} ({labels.n_classes:2} × 48) {t/steps*1e3:9.2f}', *(f'{u/steps*1e3:10.2f}' for u in times), *(f'{u/t:{w}.1f}' for u,w in zip(times, (11,11,9))), f'   {gap:.0e}', sep='', flush=True)

def autograd_stacked(mv, labels, S, steps, lr=.01, decay=.05, n=64):
    "All seeds and classes in one product, every patch drawn, gradient by autograd: whole steps, drawing included."
    streams,C = [Stream(s) for s in range(S)],labels.n_classes
    net,feed = new_net(mv, C, seeds=streams),_Feed(mv, streams, n, labels)
    w,b = net.w.clone().requires_grad_(),net.b.clone()
    for t in range(steps):
        y,*parts = feed()
        rows,owner = _fill(mv, streams, n, *parts, torch.float32, None, t)
        X = torch.stack([r[o.argsort(stable=True)] for r,o in zip(rows, owner)])
        z = torch.relu(torch.baddbmm(b[:,None], X, w.transpose(1,2))).view(S, n, mv.P, C, -1)
        loss = F.cross_entropy(z.sum((2,4)).view(-1, C), y.reshape(-1), reduction='sum')/n
        g, = torch.autograd.grad(loss, w)
        with torch.no_grad():
            w -= lr*g
            b -= decay*(lr*g).norm(dim=-1)
    return w.detach()

def whole_steps(repeat, S=10, steps=16):
    print(f"\n{f'one step of {S} seeds, drawing included, ms':42}{'fast':>9}{'autograd':>10}{'ratio':>8}   largest difference of weights")
    for k,P in (2,32),(8,32),(8,128):
        mv = MultiView(k=k, P=P)
        for name,labels in dict(coarse=coarse(mv), fine=fine(mv)).items():
            if k*P>512 and name=='fine': continue # its activations would need 5 GB
            t,run = clock(lambda: pretrain_net(mv, labels, seeds=range(S), max_steps=steps, stop=1e-9), repeat=repeat)
            u,want = clock(autograd_stacked, mv, labels, S, steps, repeat=repeat)
            gap = (run.net.w-want).abs().max().item()
            assert gap<1e-5, gap
            print(f'k = {k:2}, P = {P:3}, {name:6} ({labels.n_classes:2} × 48){"":10}{t/steps*1e3:9.2f}{u/steps*1e3:10.2f}{u/t:8.1f}   {gap:.0e}', flush=True)

def seeds(repeat, S=20, steps=50):
    print(f"\n{f'{S} seeds, {steps} steps, s':34}{'stacked':>9}{'in turn':>10}{'ratio':>8}   of the stacked time, drawing samples and their noise")
    for name,mv,kw in (('d = 32, P = 16, 2 × 8 neurons', MultiView(d=32, P=16, k=4, s_star=3), dict(m=8, batch=16, decay=.3)),
                       ('d = 32, P = 16, 2 × 48 neurons', MultiView(d=32, P=16, k=4, s_star=3), dict(decay=.3)), ('d = 128, P = 32, 2 × 48 neurons', MultiView(), {})):
        run = lambda n: pretrain_net(mv, 'coarse', seeds=range(S), max_steps=steps, stop=1e-9, together=n, **kw)
        (a,x),(b,y) = (clock(run, n, repeat=repeat) for n in (S,1))
        assert torch.allclose(x.net.w, y.net.w, atol=1e-5)
        def draw():
            feed = _Feed(mv, [Stream(s) for s in range(S)], kw.get('batch', 64), coarse(mv))
            for _ in range(steps):
                _,*parts = feed()
                _fill(mv, feed.streams, feed.n, *parts, torch.float32, None)
        d,_ = clock(draw, repeat=repeat)
        print(f'{name:34}{a:9.2f}{b:10.2f}{b/a:8.2f}   {d/a:.0%}', flush=True)

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--small', action='store_true', help='fewer repeats')
    repeat = 2 if p.parse_args().small else 7
    torch.set_num_threads(1)
    engines(repeat)
    whole_steps(min(repeat, 3))
    seeds(min(repeat, 3))
