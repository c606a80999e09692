"What a report says: families, controls, where the best was chosen, and names that others chose."
import html, json, re, warnings
import numpy as np, pandas as pd, pytest
from scipy import stats
from granularity_nb.study.plan import StudyError
from granularity_nb.study.report import (_as_html, _as_markdown, _csv, _sections, against_controls, control_table, curve, error_table, figure, findings, forest_plot, paired, paired_table, rates_table,
                                         summary)
from granularity_nb.text import in_csv, in_markdown, in_plot, one_line


def table(split='test', n=100, classes={}, how='readout', **arms):
    "A study's table: errors of the seeds 0, 1, … of each label map; None where a run is missing."
    return pd.DataFrame([dict(recipe='plain', split=split, label_map=m.replace('__', ':').replace('_', ' '), transfer='direct' if m == 'direct' else how, n_classes=classes.get(m, 2), n=n, seed=s, error=e, nll=1., run=f'{m}{s}')
                         for m,es in arms.items() for s,e in enumerate(es) if e is not None])

def noise(mean, seed, n=5, sd=.005): return mean+sd*np.random.default_rng(seed).standard_normal(n)

def shown(d): return abs(d.difference) > d.half


# ---- one family everywhere

def studies(seed=0):
    "Several arms and transfers, some of which differ from direct training by about as much as can be shown."
    rng = np.random.default_rng(seed)
    rows = [table(direct=noise(.3, 99+seed), **{f'm{i}': rng.normal(.3-.004*i, .004, 5) for i in range(6)})]
    rows += [table(how=how, **{f'm{i}': rng.normal(.3-.004*i, .004, 5) for i in range(6)}) for how in ('probe','finetune')]
    return pd.concat(rows, ignore_index=True)


@pytest.mark.parametrize('comparison', ['paired','unpaired'])
def test_intervals_p_values_words_table_and_plot_agree(comparison):
    seen = set()
    for k in range(4):
        t = studies(k)
        d = paired(t, comparison=comparison)
        assert (d.family == 18).all() and (shown(d) == (d.p_family < .05)).all() and (d.p_family == np.fmin(1, 18*d.p)).all()
        told = paired_table(t, 'plain', 'test', comparison=comparison).set_index('label map')
        fig = forest_plot(t, 'plain', 'test', comparison=comparison)
        assert 'all 18 together' in fig.get_suptitle()
        for ax in fig.axes:
            how = ax.get_title()
            filled = {float(y) for o in ax.lines if o.get_marker() in 'os^D' and o.get_markerfacecolor() != 'w' for y in o.get_ydata()}
            names = [o.get_text().split(' (')[0] for o in fig.axes[0].get_yticklabels()]
            mine = d[d.transfer == how]
            assert {names[int(y)] for y in filled} == set(mine.label_map[shown(mine)])
        for o in d.itertuples():
            words = told.loc[o.label_map, o.transfer]
            assert f'± {100*o.half:.1f} (p = ' in words
        for said in findings(t, comparison):
            how,name = re.match(r'plain, test, (\w+): best is (m\d)', said).groups()
            o = d[(d.transfer == how) & (d.label_map == name)].iloc[0]
            assert f'± {100*o.half:.1f} points' in said and 'in a family of 18' in said and ('no difference shown' in said) == (o.p_family >= .05)
            seen.add(o.p_family < .05)
    assert seen == {True, False} or comparison == 'unpaired', 'both kinds must occur'


def test_unpaired_is_welchs_test_over_all_seeds():
    t = table(direct=noise(.3, 0, 6), a=noise(.28, 1, 6, .02))
    t = t[(t.label_map != 'a') | (t.seed > 0)]
    d = paired(t, comparison='unpaired').iloc[0]
    a,b = (t[t.label_map == m].error for m in ('a','direct'))
    ref = stats.ttest_ind(a, b, equal_var=False)
    assert np.isclose(d.p, ref.pvalue) and d.seeds == 5
    pairs = t.pivot(index='seed', columns='label_map', values='error').dropna()
    assert np.isclose(d.correlation, pairs.corr().loc['a','direct']) and np.isclose(d.ratio, (pairs.a-pairs.direct).var()/(pairs.a.var()+pairs.direct.var()))


def test_a_report_says_what_pairing_brings():
    luck = noise(0, 5, sd=.02)
    for shared,word in ((luck, 'pairing helps'), (0, 'brings little or nothing')):
        t = table(direct=.3+luck, a=.28+shared+noise(0, 6, sd=.001 if np.any(shared) else .03), b=.27+shared+noise(0, 7, sd=.001 if np.any(shared) else .03))
        page = _as_markdown(_sections(t, 'x', ('a','b'), ['test'], 'paired'))
        assert word in page and 'correlated by' in page
    assert "unpaired (Welch's), as planned" in _as_markdown(_sections(t, 'x', ('a','b'), ['test'], 'unpaired'))
    assert 'not known with so few seeds' in _as_markdown(_sections(t[t.seed < 2], 'x', ('a','b'), ['test'], 'paired'))


# ---- a level and its control

def with_controls(level, groups, other=.5, direct=.3):
    return table(direct=noise(direct, 0), species=noise(level, 1), family=noise(.35, 2), **{'random-groups__species': noise(groups, 3), 'random-groups__family': noise(other, 4)})


@pytest.mark.parametrize('t,claim', [
    (with_controls(.2, .27), 'So the hierarchy matters, not only the number of classes'),
    (with_controls(.2, .202), 'So the number of classes helps; that their meaning does is not shown'),
    (with_controls(.25, .40), 'So the hierarchy matters'),
    (with_controls(.3, .36), 'So the meaning of its classes matters, but no gain over direct training is shown'),
    (with_controls(.3, .301), 'So neither a gain is shown nor that the hierarchy matters'),
    (with_controls(.25, .27, .17), "So the hierarchy matters, not only the number of classes. But random-groups:family, a control, has 8."),
    (with_controls(.25, .20), "So the meaning of its classes is not what helps. But random-groups:species, a control, has 5."),
])
def test_the_claim_that_is_left(t, claim):
    said, = findings(t)
    assert 'best is species' in said and claim in said and 'random-groups:species' in said
    assert said.count('So ') <= 1


def test_a_level_without_a_control_leaves_the_question_open():
    said, = findings(table(direct=noise(.3, 0), species=noise(.2, 1)))
    assert 'no control of its own, so whether the meaning of its classes helps or their number is open' in said
    assert 'control' not in findings(table(direct=noise(.2, 0), species=noise(.3, 1)))[0]


def test_controls_that_are_the_level_itself_support_no_claim():
    t = with_controls(.2, .27)
    t = t[t.label_map.isin(['direct','species'])]
    t = pd.concat([t, t[t.label_map == 'species'].assign(label_map='random-splits:species')], ignore_index=True)
    said, = findings(t)
    assert 'their spread is unknown' in said and 'So it helps; whether by the meaning of its classes or by their number is not shown' in said and 'number of classes helps' not in said


def test_controls_are_found_by_name_and_by_number():
    arms = {'direct': .3, 'leaf': .2, 'level__4': .25, 'random-groups-across__level:4'.replace('level:4', 'level__4'): .27, 'kmeans-within__200': .26, 'kmeans-across__300': .26, 'random-splits__leaf': .4}
    t = table(classes=dict(leaf=200, level__4=68) | {'kmeans-within__200': 199}, **{m: noise(e, i) for i,(m,e) in enumerate(arms.items())})
    d = against_controls(t)
    assert set(zip(d.label_map, d.control)) == {('leaf','kmeans-within:200'), ('leaf','random-splits:leaf'), ('level:4','random-groups-across:level:4')}
    assert (d.family == 3).all() and np.allclose(d.p_family, np.fmin(1, 3*d.p))
    a,b = (t[t.label_map == m].error.values for m in ('leaf','kmeans-within:200'))
    o = d[d.control == 'kmeans-within:200'].iloc[0]
    assert np.isclose(o.difference, (a-b).mean()) and np.isclose(o.p, stats.ttest_rel(a, b).pvalue)
    assert set(control_table(t, 'plain', 'test').control) == set(d.control)


# ---- chosen on valid, reported on test

def chosen(**change):
    valid = dict(direct=noise(.3, 0), a=noise(.2, 1), b=noise(.22, 2)) | change
    return pd.concat([table(direct=noise(.3, 3), a=noise(.25, 4), b=noise(.21, 5)), table('valid', **valid)], ignore_index=True)


def test_the_best_is_chosen_on_validation_images():
    said, = findings(chosen())
    assert 'best on the validation images is a ' in said and '25.' in said.split('% error')[0] and 'flatters' not in said


def test_without_validation_images_the_choice_is_said_to_flatter():
    for t in (chosen().query("split == 'test'"), chosen(b=[.1, None, .1, .1, .1])): # none; some missing
        said, = findings(t)
        assert 'best is b ' in said and said.endswith('Chosen on these images too, which flatters it.')
    t = chosen().query("split == 'valid'")
    for lr,word in ((.1, ' (as are learning rates)'), (np.nan, '')):
        said, = findings(t.assign(lr=lr))
        assert said.startswith('plain, valid, readout: best is a ') and said.endswith(f'Chosen on these images too{word}, which flatters it.')
    assert findings(t) == findings(t.assign(lr=np.nan)), 'no learning rate was chosen'


def test_the_coarsest_of_those_that_tie_is_the_best_whatever_the_order_of_rows():
    t = pd.concat([table(s, classes={'leaf': 8, 'depth 1': 4, 'depth 0': 2, 'b': 2}, direct=[.3, .2], leaf=[0., .1], depth_1=[.1, 0.], depth_0=[.05, .05], b=[.3, .3]) for s in ('test','valid')])
    for k in range(6):
        mixed = t.sample(frac=1, random_state=k).reset_index(drop=True)
        said = findings(mixed)[0]
        assert 'best on the validation images is depth 0 (2 classes; tied with depth 1, leaf, of which none has fewer classes) with 5.0 % error' in said
        assert 'is b (2 classes; tied with depth 0, depth 1,' in findings(mixed.assign(error=0., n_classes=2))[0]
    assert 'tied' not in findings(t[t.label_map.isin(['direct','leaf','b'])])[0]
    t = table(direct=[.3, .2, .25], a=[.1, .2, None], b=[None, .1, .2], c=[.2, None, .1]) # no two have the same seeds
    assert len({findings(t.sample(frac=1, random_state=k))[0].split(' (')[0] for k in range(6)}) == 1


def test_of_controls_that_tie_one_is_named_whatever_the_order_of_rows():
    t = table(direct=[.3, .2], species=[.2, .1], **{'random-groups__family': [.1, 0.], 'random-splits__9': [.1, 0.]})
    assert all('But random-groups:family, a control' in findings(t.sample(frac=1, random_state=k))[0] for k in range(6))


# ---- names that a table has not

@pytest.mark.parametrize('make', [findings, paired, against_controls, *(lambda t, comparison, f=f: f(t, 'plain', 'test', comparison=comparison) for f in (paired_table, control_table, forest_plot))])
def test_an_unknown_comparison_is_refused(make):
    with pytest.raises(StudyError, match="comparison must be 'paired' or 'unpaired', not 'pairde'"): make(studies(), comparison='pairde')


@pytest.mark.parametrize('make', [error_table, paired_table, control_table, forest_plot, lambda t, r, s: curve(t, r, s)])
def test_a_recipe_or_split_that_is_not_there_is_refused(make):
    t = chosen()
    with pytest.raises(StudyError, match="^there is no recipe 'plan' in these results; there is: plain$"): make(t, 'plan', 'test')
    with pytest.raises(StudyError, match="^there is no split 'tset' in these results; there is: test, valid$"): make(t, 'plain', 'tset')


def test_other_names_that_are_not_there_are_refused():
    t = chosen()
    for make in (lambda m: paired(t, m), lambda m: paired_table(t, 'plain', 'test', m), lambda m: forest_plot(t, 'plain', 'test', m)):
        with pytest.raises(StudyError, match="no label map 'dpeth 1' in these results; there is: direct, a, b"): make('dpeth 1')
    with pytest.raises(StudyError, match="no transfer 'probe' in these results; there is: direct, readout"): paired(t, 'a', 'probe')
    with pytest.raises(StudyError, match="no recipe 'plan'"): rates_table(t, 'plan')
    for make in (lambda: summary(t, 'eror'), lambda: error_table(t, 'plain', 'test', 'eror')):
        with pytest.raises(StudyError, match="no column 'eror'"): make()


def test_the_number_that_explains_the_intervals_stands_in_the_table():
    from granularity_nb.study.report import _sampling
    t = chosen()
    t = pd.concat([t.assign(recipe='shift', error=.5), t, t.assign(recipe='other', error=.9)])
    direct = error_table(t, 'shift', 'test').direct[0].split()[0]
    assert f"the {direct} % error of direct training (recipe 'shift', 100 images of 'test') may by itself stand for 40.4 to 59.6 %" in _sampling(t)
    assert "error of a after readout (recipe 'plain'" in _sampling(chosen().query("label_map != 'direct'"))


def test_validation_images_are_not_in_the_report_unless_asked_for():
    t = chosen()
    assert len(figure(t).axes) == 1 and "split 'test'" in figure(t).axes[0].get_title()
    page = _as_markdown(_sections(t, 'x', ('a','b'), ['test'], 'paired'))
    assert "split 'test'" in page and "split 'valid'" not in page
    assert "split 'valid'" in _as_markdown(_sections(t, 'x', ('a','b'), ['test','valid'], 'paired'))


# ---- what is not known is not zero

def test_an_error_without_known_spread_has_the_interval_of_its_images():
    none = summary(table(n=14, a=[0., 0.])).iloc[0]
    assert np.isnan(none.half) and np.isnan(none.sd) and none.low95 == 0 and np.isclose(none.high95, stats.binomtest(0, 14).proportion_ci(method='wilson').high)
    t = table(n=1000, direct=[.633], a=[.633, .633], b=[.6, .62])
    told = error_table(t, 'plain', 'test').set_index('label map')
    assert told.direct['direct'] == '63.3 (60.3 to 66.2)' == told.readout['a'] and '±' in told.readout['b']
    assert not any('± 0.0' in o for o in told.stack())
    assert paired_table(table(direct=[.3, .2], a=[.2, .1]), 'plain', 'test').readout.item() == '−10.0 ± ?'
    ax = curve(table(n=14, direct=[.5, .5], a=[0., 0.], b=[.2, .3]), 'plain')
    band = [o for o in ax.collections if len(o.get_paths())][0].get_paths()[0].vertices[:,1]
    baseline = ax.patches[0].get_patch_transform().transform_path(ax.patches[0].get_path()).vertices[:,1] # a polygon before matplotlib 3.9
    assert band.max() > 20 and np.ptp(baseline) > 30, 'an interval, not a line'


def test_a_class_error_without_known_spread_has_no_interval():
    t = table(a=[.2, .3, .25], b=[.2, .2, .2]).assign(balanced_error=lambda o: o.error, worst_class_error=.5)
    assert error_table(t, 'plain', 'test', 'balanced_error').set_index('label map').readout['b'] == '20.0'
    page = _as_markdown(_sections(t, 'x', ('a','b'), ['test'], 'paired'))
    assert "Mean of the classes' errors" in page and 'recognised worst' in page and '| 50.0 |' in page
    assert 'recognised worst' not in _as_markdown(_sections(t.drop(columns='worst_class_error'), 'x', ('a','b'), ['test'], 'paired'))


    page = _as_markdown(_sections(t[t.label_map == 'a'], 'x', ('a','b'), ['test'], 'paired'))
    assert "Mean of the classes' errors in %, mean ± 95 % interval over seeds:" in page
    assert 'recognised worst in %, mean over seeds (no interval: their spread is not known):' in page and '| 50.0 |' in page


def test_equal_errors_are_neither_lower_nor_higher():
    said, = findings(table(direct=[.3], a=[.3]))
    assert '0.0 points from direct training in the only seed' in said and 'higher' not in said
    said, = findings(table(direct=[.3, .2], a=[.3, .2]))
    assert 'difference to direct training 0.0 points over 2 seeds' in said


def test_no_interval_is_wider_than_what_it_is_of():
    t = table(direct=[.9, .5], **{f'm{i}': [.5+i/100, .95] for i in range(6)})
    assert (paired(t).half > 1).all() and set(error_table(t, 'plain', 'test').readout) == {'', '72.5 ± >100', '73.0 ± >100', '73.5 ± >100', '74.0 ± >100', '74.5 ± >100', '75.0 ± >100'}
    assert paired_table(t, 'plain', 'test').readout[0] == '2.5 ± >100 (p = 1)' and '+2.5 ± >100 points: no difference shown' in findings(t)[0]
    assert (summary(t)[['low95','high95']] == [0, 1]).all().all() and summary(t, 'nll').high95.isna().all()
    low,high = forest_plot(t, 'plain', 'test').axes[0].get_xlim()
    assert -105 <= low < high <= 105


def test_what_was_chosen_and_where_it_lies_in_its_grid():
    t = table(a=[.2, .3], b=[.2, .3])
    assert rates_table(t, 'plain') is None
    t = t.assign(lr=[.1, .3, np.nan, np.nan])
    assert rates_table(t, 'plain').readout.tolist() == ['0.1, 0.3'], 'a table of an earlier version'
    t = t.assign(lr_place=['inside','highest',None,None], C=[np.nan, np.nan, 1e-5, .1], C_place=[None, None, 'lowest','inside'], C_converged=[None, None, True, False])
    assert rates_table(t, 'plain').readout.tolist() == ['0.1, 0.3 (highest)', '1e-05 (lowest), 0.1 (not converged)']
    t = t[t.label_map == 'a'].assign(C=[1e-5, 1.], C_place=['lowest','inside'], C_converged=[True, False]) # fine-tuning that begins with a probe
    assert rates_table(t, 'plain').readout.tolist() == ['0.1 with C 1e-05 (lowest), 0.3 (highest) with C 1 (not converged)']


# ---- a study that is still running

def test_any_part_of_a_table_is_reported():
    t = pd.concat([studies(), chosen().assign(recipe='other'), with_controls(.2, .3)], ignore_index=True)
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for k in range(12):
            part = t.sample(n=int(rng.integers(1, 12)), random_state=k)
            page = _as_html(_sections(part, 'x', ('a','b'), ['test','valid'], ('paired','unpaired')[k%2]), b'')
            assert '<table' in page and 'nan' not in re.sub('<[^>]*>', '', page)
            figure(part).savefig('/dev/null', format='svg')
    with pytest.raises(StudyError, match='no results'): figure(t[:0])


# ---- names that others chose

EVIL = ['US$ vs A$', '_other', '<script>alert(1)</script>', 'a|b', '=1+1', '-2', '@x', 'two\nlines', '\x1b[31mred', '[x](http://y)', '*b*', '`c`', r'$\frac{', 'x'*80]

@pytest.fixture(scope='module')
def evil():
    return pd.concat([table(direct=noise(.3, 0)), *(table(a=noise(.2+i/100, i)).assign(label_map=m, n_classes=2+i) for i,m in enumerate(EVIL))], ignore_index=True).assign(recipe='<i>$r$</i>', split='_s$|$')


def test_names_in_plots_are_shown_as_they_are(evil):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        fig = figure(evil)
        fig.savefig('/dev/null', format='svg')
        texts = [o.get_text() for ax in fig.axes for o in (ax.title, ax.yaxis.label, *ax.get_xticklabels())]
        forest = forest_plot(evil, '<i>$r$</i>', '_s$|$')
        forest.savefig('/dev/null', format='svg')
        texts += [o.get_text() for o in forest.axes[0].get_yticklabels()]
    from matplotlib.text import Text
    assert [o for o in texts if Text()._preprocess_math(o)[1]] == [] and sum(r'US\$ vs A\$' in o for o in texts) == 2


def test_legends_name_every_line():
    import matplotlib.pyplot as plt
    ax = plt.subplots()[1]
    for o in EVIL: ax.plot([0], [0], label=in_plot(o))
    assert len(ax.legend().get_texts()) == len(EVIL)
    plt.close()


def test_reports_show_names_as_text(evil, tmp_path):
    sections = _sections(evil, '<b>title</b>', ('<u>', '</p>'), ['_s$|$'], 'paired')+[('pre', json.dumps(EVIL+['```'], indent=1))]
    page = _as_html(sections, b'')
    assert set(re.findall('<(?!/)([a-z0-9]+)', page)) <= {'html','head','meta','title','style','body','h1','h2','p','ul','li','img','table','thead','tbody','tr','th','td','pre'}
    assert all(html.escape(one_line(o)) in page for o in EVIL)
    md = _as_markdown(sections).split('````json')[0]
    rows = [re.split(r'(?<!\\)\|', o) for o in md.splitlines() if o.startswith('|')]
    assert '<' not in md and {len(o) for o in rows} == {4, 6} and not re.search(r'(?<!\\)[$`*]', re.sub(r'^\* ', '', md, flags=re.M))
    assert all(in_markdown(o) in md for o in EVIL)
    cells = pd.read_csv(pd.io.common.StringIO(_csv(summary(evil))))
    assert not any(str(o)[:1] in '=+-@' for o in cells.label_map) and (cells.error > 0).all() and "'=1+1" in set(cells.label_map)


def test_markdown_is_read_back_as_the_name():
    md = pytest.importorskip('markdown_it').MarkdownIt('commonmark').enable('table').disable(['linkify'])
    for o in EVIL+['1. x','# x','- x','+ x','&amp;','a_b','__x__','~~x~~','a\\b']:
        for text in (in_markdown(o), f'| h |\n| --- |\n| {in_markdown(o)} |', f'* {in_markdown(o)}'):
            made = md.render(text)
            assert html.escape(one_line(o)).replace('&#x27;', "'") in made and not re.search('<(em|strong|a|h1|ol|script|code)', made), (text, made)


def test_cells_of_a_spreadsheet():
    assert [in_csv(o) for o in ('=x','+1','-1','@a',' =x','poodle', -1.5, None)] == ["'=x","'+1","'-1","'@a","' =x",'poodle', -1.5, None]


def test_every_plot_of_the_library_shows_names_as_they_are():
    import matplotlib.pyplot as plt
    from matplotlib.text import Text
    from granularity_nb.data.source import Source, Split
    from granularity_nb.labels.alignment import alignment_table, plot_alignment
    from granularity_nb.labels.hierarchy import Hierarchy
    from granularity_nb.training.hardness import plot_gain
    h = Hierarchy.from_paths({'US$ vs A$': ['_money$a$'], '_b': ['_money$a$'], r'$\frac{': ['c'], 'd$x$': ['c']})
    s = Source('few', h, {'_t$r$': Split(np.zeros((8,4,4), np.uint8), np.arange(8)%4), 'train': Split(np.zeros((8,4,4), np.uint8), np.arange(8)%4)}, h.level(1), {'_l$x$': h.level(0), 'm': h.level(1)})
    gain = pd.DataFrame(dict(gain=[.1, .2], low=[0, .1], high=[.2, .3]), index=[1, 2])
    axs = [h.plot(kind=k) for k in ('tree','radial','icicle','sunburst')]
    axs += [s.plot_counts('_t$r$'), plot_alignment({'_a$x$': alignment_table({'b': h.level(0)}, h.level(1))}), plot_gain({'_g$x$': gain, 'h': gain})]
    figs = {ax.figure for ax in axs} | {s.show_level('_l$x$', rows=4), s.show_levels()}
    assert [len(ax.get_legend().get_texts()) for ax in axs[4:]] == [2, 2, 2]
    for fig in figs:
        fig.savefig('/dev/null', format='svg')
        assert not [o.get_text() for o in fig.findobj(Text) if o._preprocess_math(o.get_text())[1] is True and '10^' not in o.get_text() and 'mathdefault' not in o.get_text()]
        plt.close(fig)


# ---- the folder of a study

def folder_of(path, table, **plan):
    "What a study leaves, without its networks: plan, list of runs, results."
    from granularity_nb.study.plan import Plan
    plan,runs = Plan(seeds=tuple(sorted(set(table.seed))), **plan),[]
    for (m,s),g in table.groupby(['label_map','seed'], sort=False):
        runs.append(dict(id=f'{len(runs):016x}', recipe='plain', label_map=m, seed=int(s), transfers=[*g.transfer.unique()]))
        for how,rows in g.groupby('transfer', sort=False):
            d = path/'runs'/runs[-1]['id']/'transfers'/how
            d.mkdir(parents=True)
            (d/'result.json').write_text(rows.to_json(orient='records'))
    (path/'plan.json').write_text(json.dumps(dict(format=1, plan=plan.to_dict(), digest=plan.digest, runs=runs)))
    return path


def test_the_plan_says_how_arms_are_compared(tmp_path):
    from granularity_nb.study.plan import Plan, checked, plan_from_dict
    from granularity_nb.study.report import report
    plain,other = Plan(),Plan(comparison='unpaired')
    assert 'comparison' not in plain.to_dict() and plain == Plan(comparison='paired') and plain.digest != other.digest and plan_from_dict(other.to_dict()) == other
    with pytest.raises(StudyError, match="comparison must be 'paired' or 'unpaired', not 'welch'"): checked(Plan(comparison='welch'))
    t = chosen()
    for k in ('paired','unpaired'):
        page = (report(folder_of(tmp_path/k, t, comparison=k)).with_name('report.md')).read_text()
        want = paired(t[t.split == 'test'], comparison=k).set_index('label_map').loc['a']
        assert f'± {100*want.half:.1f} (p = ' in page and 'best on the validation images is a ' in page and "split 'valid'" not in page


def test_a_report_says_which_transfers_are_left_out_and_why(tmp_path):
    from granularity_nb.study.report import report
    rows = lambda how, **arms: table(how=how, **arms)
    t = pd.concat([rows('probe', direct=[.3, .2], leaf=[.2, .1], genus=[.2, .1], family=[.1, .1]), *(rows(o, leaf=[.2, .1]) for o in ('readout','marginal'))])
    page = report(folder_of(tmp_path/'s', t, transfers=('readout','probe','finetune','marginal')))
    for f in (page, page.with_name('report.md')):
        said = f.read_text()
        assert said.count('readout and marginal are left out for label maps genus, family. ') == 1 and 'lies in one target class' in said, 'fine-tuning, which is not there yet, needs no head'
    whole = report(folder_of(tmp_path/'t', t[t.transfer != 'marginal'], transfers=('probe',)))
    assert 'left out' not in whole.read_text()


def test_a_report_of_an_unfinished_study_touches_nothing_else(tmp_path):
    from granularity_nb.study.report import report
    d = folder_of(tmp_path/'s', chosen())
    state = lambda: {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in sorted(d.rglob('*')) if f.is_file() and 'report' not in f.relative_to(d).parts}
    for f in sorted(d.rglob('result.json'))[::-1]:
        before = state()
        page = report(d)
        assert page.exists() and state() == before and not [o for o in d.iterdir() if o.name not in ('plan.json','runs','report')]
        f.unlink() # the next report has a result less
    with pytest.raises(StudyError, match='no results yet'): report(d)


def test_what_a_killed_report_leaves_is_removed_by_the_next(tmp_path):
    import subprocess, sys
    from granularity_nb.study.report import report
    d = folder_of(tmp_path/'s', chosen())
    dies = "import os, sys\nfrom granularity_nb.files import whole_file\nwith whole_file(sys.argv[1]): os._exit(9)"
    subprocess.run([sys.executable, '-c', dies, d/'report'/'curve.svg'])
    assert [o.name[:5] for o in (d/'report').iterdir()] == ['.tmp-']
    report(d)
    assert not [o for o in (d/'report').iterdir() if o.name.startswith('.')]


def test_names_in_the_files_of_a_report(tmp_path):
    from granularity_nb.study.report import report
    t = pd.concat([table(direct=noise(.3, 0)), *(table(a=noise(.2+i/100, i)).assign(label_map=m, n_classes=2+i) for i,m in enumerate(EVIL))], ignore_index=True)
    out = report(folder_of(tmp_path/'s', t, maps=tuple(EVIL)), title='<b>|$a$').parent
    assert '<b>' not in (out/'report.html').read_text() and '<script>' not in (out/'report.html').read_text() + (out/'report.md').read_text().split('```')[0]
    for o in ('summary.csv','paired.csv','controls.csv'):
        assert not [c for c in pd.read_csv(out/o).select_dtypes(exclude='number').stack() if str(c)[:1] in '=+-@'], o
    assert sorted(o.name for o in out.iterdir()) == ['controls.csv','curve.png','curve.svg','paired.csv','report.html','report.md','summary.csv']


def test_gains_of_one_seed_have_no_interval():
    from granularity_nb.training.evaluate import Predictions
    from granularity_nb.training.hardness import gain_by_hardness
    rng = np.random.default_rng(0)
    def run(wrong): return Predictions(wrong.astype(np.int32), np.zeros(len(wrong), np.int32), np.log(np.where(wrong, .2, .8)+.1*rng.random(len(wrong))))
    easy = np.arange(100) < 50
    direct,other = ({s: run(~easy & (rng.random(100) < p)) for s in range(5)} for p in (.8, .4))
    t = gain_by_hardness(direct, other, bins=4, n_resamples=100)
    assert np.isnan(t.low[1]) and np.isnan(t.high[1]) and (t.low < t.high)[3:].all() and t.gain[1] == 0
    assert np.isnan(gain_by_hardness(direct, {0: other[0]}, bins=4, n_resamples=100)[['low','high']]).all().all()


def test_the_command_line_asks_for_the_comparison():
    from granularity_nb.cli import _plan, parser
    of = lambda *words: _plan(parser().parse_args(['study', *words])).comparison
    assert of() == 'paired' and of('--comparison', 'unpaired') == 'unpaired'
    with pytest.raises(SystemExit): parser().parse_args(['study','--comparison','welch'])


@pytest.mark.parametrize('multi', [False, True])
def test_titles_of_batches_name_classes_as_they_are(multi):
    import matplotlib.pyplot as plt
    from matplotlib.text import Text
    from granularity_nb.data.block import dataloaders
    from granularity_nb.data.source import Source, Split
    from granularity_nb.labels.hierarchy import Hierarchy
    edges = [('US$ vs A$','k$x$'), ('_b$x$','k$x$'), ('c','m')]+[('c','k$x$')]*multi
    h = Hierarchy.from_edges(edges+[('k$x$','all'), ('m','all')])
    split = lambda n: Split(np.zeros((n,8,8), np.uint8), np.arange(n)%3)
    s = Source('few', h, dict(train=split(12), valid=split(6)), h.level(0))
    dls = dataloaders(s, h.level(1) if multi else h.level(0), bs=6)
    dls.show_batch(max_n=6)
    titles = [ax.title for ax in plt.gcf().axes if ax.get_title()]
    assert len(titles) == 6 and any('$' in o.get_text() for o in titles) and not any(o._preprocess_math(o.get_text())[1] for o in titles)
    plt.close('all')
    x,y = dls.one_batch()[:2]
    name = dls.decode_batch((x, y))[0][1]
    assert set(name) <= {'k$x$','m'} if multi else name in h.leaves, 'the name itself is not changed'
