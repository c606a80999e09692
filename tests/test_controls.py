"Random controls: the sizes stay, the meaning goes, borders hold, draws repeat."
from collections import Counter
import numpy as np, pytest
from hypothesis import given, strategies as st
from granularity_nb.labels.controls import random_groups, random_splits
from granularity_nb.labels.hierarchy import Hierarchy, HierarchyError, LabelMap

def nested(seed, n=60):
    "Four maps over the same leaves, each refining the next: leaf, unit, group, superclass."
    rng = np.random.default_rng(seed)
    unit = np.r_[np.arange(20), rng.integers(0, 20, n-20)]
    group = np.r_[np.arange(6), rng.integers(0, 6, 14)]
    over = np.array([0,1,2,0,1,0])
    leaves = [f'{i:02d}' for i in range(n)]
    return (LabelMap.identity(leaves), LabelMap(leaves, [f'u{i:02d}' for i in range(20)], unit),
            LabelMap(leaves, [f'g{i}' for i in range(6)], group[unit]), LabelMap(leaves, list('abc'), over[group][unit]))

def sizes(m, of):
    "How many units of `of` each class of `m` holds, by class."
    return [len(set(of.codes[m.codes==c])) for c in range(m.n_classes)]

@given(st.integers(0, 999), st.integers(0, 999))
def test_random_groups_keep_sizes_units_and_borders(data, seed):
    leaf,unit,group,over = nested(data)
    for of in leaf,unit:
        free,inside = random_groups(group, of=of, seed=seed),random_groups(group, within=over, of=of, seed=seed)
        for m in free,inside:
            assert m.leaves==group.leaves and m.n_classes==group.n_classes and of.refines(m)
            assert sizes(m, of)==sizes(group, of)
            assert m==random_groups(group, within=over if m is inside else None, of=of, seed=seed)
        assert inside.refines(over)
        for c in range(over.n_classes): # class by class, each border holds groups of the sizes of the real ones there
            there = over.codes==c
            assert {o:len(set(of.codes[there&(inside.codes==o)])) for o in set(inside.codes[there])}=={
                    o:len(set(of.codes[there&(group.codes==o)])) for o in set(group.codes[there])}

def test_random_groups_are_random():
    leaf,unit,group,over = nested(0)
    draws = [random_groups(group, within=over, seed=s) for s in range(200)]
    assert len({m.digest for m in draws})>190 and not any(m.refines(group) for m in draws)
    a,b = np.flatnonzero(over.codes==0)[:2]
    share = np.mean([m.codes[a]==m.codes[b] for m in draws])
    n = Counter(group.codes[over.codes==0])
    total = sum(n.values())
    expected = sum(k*(k-1) for k in n.values())/(total*(total-1))
    assert abs(share-expected)<4*(expected*(1-expected)/len(draws))**.5 # four standard errors, the seeds are fixed

@given(st.integers(0, 999), st.integers(3, 60))
def test_random_splits_are_nearly_equal_and_refine(seed, n):
    *_,over = nested(seed)
    m = random_splits(over, n, seed=seed)
    assert m.n_classes==n and m.refines(over) and m==random_splits(over, n, seed=seed)
    size = np.bincount(m.codes, minlength=n)
    parent = m.parents_in(over)
    assert size.min()>=1
    for c in range(over.n_classes): assert np.ptp(size[parent==c])<=1
    parts,whole = np.bincount(parent, minlength=over.n_classes),np.bincount(over.codes)
    for i in range(over.n_classes): # no part could be moved to a superclass whose parts are larger
        for j in range(over.n_classes):
            if parts[j]>1: assert whole[i]/parts[i]<=whole[j]/(parts[j]-1)+1e-9

def test_one_class_per_image_and_one_per_superclass():
    *_,over = nested(1)
    every = random_splits(over, 60)
    assert sorted(every.codes)==list(range(60)) and len(set(every.vocab))==60
    assert random_splits(over, 3).codes.tolist()==over.codes.tolist()

def test_superclasses_without_images_get_no_part():
    items = LabelMap(['1','2','3'], ['cat','dog','bird'], [0,2,2])
    m = random_splits(items, 3)
    assert m.vocab==('cat / part 0','bird / part 0','bird / part 1')

def test_what_cannot_be_drawn_is_refused():
    leaf,unit,group,over = nested(0)
    multi = LabelMap(leaf.leaves, ['x','y'], (np.arange(0, 121, 2), np.tile([0,1], 60)))
    for f,message in ((lambda: random_groups(over, within=group), 'does not refine'), (lambda: random_groups(unit, of=group), 'does not refine'),
                      (lambda: random_groups(multi), 'multi'), (lambda: random_splits(multi, 4), 'several classes'),
                      (lambda: random_splits(over, 2), '2 classes are fewer than the 3'), (lambda: random_splits(over, 61), '61 classes are more than the 60 images')):
        with pytest.raises(HierarchyError, match=message): f()
