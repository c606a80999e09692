"The files around the code: settings, constraints, workflows, notebooks, README. Skipped where only the package is installed."
import ast, configparser, importlib.util, json, re, shlex, shutil, subprocess, sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
import pytest
yaml = pytest.importorskip('yaml')
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT/'.github').exists(): pytest.skip('not in a checkout of the project', allow_module_level=True)
PYTHONS = '3.10', '3.11', '3.12', '3.13'
NOTEBOOKS = sorted(o for o in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in o.parts)
WORKFLOWS = sorted((ROOT/'.github'/'workflows').glob('*.yml'))

def text(name): return (ROOT/name).read_text(encoding='utf-8')

def settings():
    cfg = configparser.ConfigParser(delimiters=['='])
    cfg.read_string(text('settings.ini'))
    return cfg['DEFAULT']

def requirements(key): return {canonicalize_name(o.name): o for o in map(Requirement, shlex.split(settings()[key]))}

def load(name):
    "The script tools/`name`.py as a module."
    spec = importlib.util.spec_from_file_location(f'granularity_{name}', ROOT/'tools'/f'{name}.py')
    mod = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mod)
    return mod

@pytest.fixture(scope='module')
def tool(): return load('readme')


# Dependencies

def test_library_has_ranges():
    "A lower bound for everything and no upper one: the pins that nbdev needs stay out of the library's own requirements."
    reqs = requirements('requirements')
    assert {'numpy', 'torch', 'fastai', 'fastcore'} <= reqs.keys() and not {'nbdev', 'execnb', 'ghapi'} & reqs.keys()
    wrong = {k: str(o) for k,o in reqs.items() if [s.operator for s in o.specifier] != ['>=']}
    assert not wrong

def test_dev_has_the_pins():
    dev = requirements('dev_requirements')
    assert not dev['nbdev'].specifier.contains('3.0') and not dev['fastcore'].specifier.contains('2.0') and not dev['ghapi'].specifier.contains('2.0')
    assert {k: str(o) for k,o in requirements('test_requirements').items()}.items() <= {k: str(o) for k,o in dev.items()}.items()

@pytest.mark.parametrize('python', PYTHONS)
@pytest.mark.parametrize('system,machine', [('linux', 'x86_64'), ('linux', 'aarch64'), ('darwin', 'arm64')])
def test_constraints(python, system, machine):
    "On each platform exactly one version of everything that we ask for, inside our ranges."
    env = dict(python_version=python, python_full_version=python+'.5', sys_platform=system, platform_machine=machine, os_name='posix',
               platform_system=system.capitalize(), platform_python_implementation='CPython', implementation_name='cpython', extra='')
    have = {}
    for o in (Requirement(l) for l in text('constraints.txt').splitlines() if l and not l.startswith('#')):
        if o.marker is None or o.marker.evaluate(env):
            assert canonicalize_name(o.name) not in have, f'two versions of {o.name}'
            have[canonicalize_name(o.name)] = Version(str(o.specifier).removeprefix('=='))
    for name,o in (*requirements('requirements').items(), *requirements('dev_requirements').items(), *requirements('docs_requirements').items()):
        assert o.specifier.contains(have[name]), f'{o} but constraints.txt has {have[name]}; run `make constraints`'

def test_no_index_named():
    "Where packages come from is the user's choice: no file of ours names an index, a mirror or a path of somebody's machine."
    for name in ('constraints.txt', 'settings.ini', 'setup.py', 'pyproject.toml', 'Makefile', '.ci/run',
                 *(str(o.relative_to(ROOT)) for o in (*WORKFLOWS, *(ROOT/'tools').glob('*.*'), *(ROOT/'docs').glob('*.*')))):
        assert not re.search(r'--(extra-)?index-url|--find-links|--trusted-host|-i https?:|/root/|/home/\w', text(name)), name
    assert '://' not in text('constraints.txt')

def test_data_files_are_packed():
    "setup.py packs `*/tables/*` and Python files; whatever else lay in the package would be missing after installing."
    assert "package_data={cfg['lib_name']: ['*/tables/*']}" in text('setup.py')
    files = [o.relative_to(ROOT/'granularity_nb') for o in (ROOT/'granularity_nb').rglob('*') if o.is_file() and o.suffix not in ('.py', '.pyc')]
    assert [str(o) for o in files if not o.match('*/tables/*') or len(o.parts) != 3] == []

def test_pythons_agree():
    "settings.ini, the workflow's matrix and this file speak of the same versions."
    assert settings()['min_python'] == PYTHONS[0]
    matrix = yaml.safe_load(text('.github/workflows/test.yml'))['jobs']['test']['strategy']['matrix']
    assert tuple(matrix['python']) == PYTHONS and {o.split('-')[0] for o in matrix['os']} == {'ubuntu', 'macos'}

@pytest.mark.parametrize('path', sorted({*(ROOT/'granularity_nb').rglob('*.py'), *(ROOT/'tests').glob('*.py'), *(ROOT/'tools').glob('*.py'), *(ROOT/'docs').glob('*.py')}), ids=lambda o: o.name)
def test_oldest_python_can_parse(path):
    "No syntax newer than the oldest Python that we promise (f-strings apart, which only that Python itself can judge)."
    ast.parse(path.read_text(encoding='utf-8'), feature_version=tuple(map(int, PYTHONS[0].split('.'))))


# Workflows and make

def targets(): return set(re.findall(r'^([a-z][a-z-]*):', text('Makefile'), flags=re.M))

@pytest.mark.parametrize('path', WORKFLOWS, ids=lambda o: o.name)
def test_workflow(path):
    flow = yaml.safe_load(path.read_text(encoding='utf-8'))
    assert flow['permissions'] == {'contents': 'read'} and 'cancel-in-progress' in flow['concurrency']
    for name,job in flow['jobs'].items():
        assert 'timeout-minutes' in job, name
        for step in job['steps']:
            assert ('uses' in step) != ('run' in step), step
            if 'uses' in step: assert re.fullmatch(r'[\w.-]+/[\w.-]+@(release/)?v\d+', step['uses']), step
            if step.get('run', '').startswith('bash '): assert (ROOT/step['run'].split()[1]).exists(), step

def workflow(name): return yaml.safe_load(text(f'.github/workflows/{name}.yml'))

def test_site_is_deployed_from_make_docs():
    "What is published is what `make docs` built and the tests have seen; only the job that deploys may write, and only after these."
    jobs = workflow('docs')['jobs']
    runs = [o.get('run', '') for o in jobs['build']['steps']]
    assert runs.index('make docs') < next(i for i,o in enumerate(runs) if 'tests/test_site.py' in o) < len(runs)-1
    assert jobs['build']['steps'][-1]['with'] == {'path': settings()['doc_path']} and 'permissions' not in jobs['build']
    assert jobs['deploy']['needs'] == 'build' and jobs['deploy']['permissions'] == {'pages': 'write', 'id-token': 'write'}

def test_release_is_tested_and_trusted():
    "Tests come before the upload, the tag is the version, and no password is stored: PyPI trusts the workflow."
    jobs = workflow('release')['jobs']
    runs = [o.get('run', '') for o in jobs['build']['steps']]
    assert runs.index('bash .ci/run') < runs.index('make dist') and any('GITHUB_REF_NAME' in o for o in runs)
    assert jobs['publish']['needs'] == 'build' and jobs['publish']['permissions'] == {'id-token': 'write'}
    assert 'secrets' not in text('.github/workflows/release.yml') and 'password:' not in text('.github/workflows/release.yml')

def test_make_targets_exist():
    "Every `make something` in the documentation and in CI is there, and `make help` lists every target."
    used = {m for name in ('README.md', 'CONTRIBUTING.md', '.ci/run', *(str(o.relative_to(ROOT)) for o in WORKFLOWS))
            for m in re.findall(r'(?:^|[`\s:]) *make ((?:[a-z][a-z-]* ?)+)(?=$|[`#]| *#|UV=|PYTHON=| </dev)', text(name), flags=re.M)}
    used = {o for m in used for o in m.split()}
    assert {'study', 'test', 'test-newest', 'test-lowest', 'docs', 'export', 'constraints'} <= used <= targets()
    assert {m for m in re.findall(r'^([a-z-]+):.*## ', text('Makefile'), flags=re.M)} == targets()


# Version, citation, licence

def test_versions_agree():
    version = settings()['version']
    assert f'__version__ = "{version}"' in text('granularity_nb/__init__.py')
    assert re.search(rf'^## {re.escape(version)} ', text('CHANGELOG.md'), flags=re.M)
    assert f'version {version}' in text('README.md') and f'{{{version}}}' in text('docs/cite.md')
    cff = yaml.safe_load(text('CITATION.cff'))
    assert cff['version'] == version and cff['license'] == 'Apache-2.0'
    assert [o['url'].rsplit('/', 1)[1] for o in cff['references']] == ['2303.16887', '2410.23129']

def test_licence_is_whole():
    licence = text('LICENSE')
    assert settings()['license'] == 'apache2' and 'Version 2.0, January 2004' in licence and 'END OF TERMS AND CONDITIONS' in licence
    assert all(f'\n   {i}. ' in licence for i in range(1, 10))


# Notebooks

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda o: str(o.relative_to(ROOT/'nbs')))
def test_notebook_is_clean(path):
    "No execution counts, no editor's metadata, no stored error; cells have ids, a title comes first."
    nb = json.loads(path.read_text(encoding='utf-8'))
    assert nb['nbformat'] == 4 and set(nb['metadata']) <= {'kernelspec', 'language_info'}
    ids = [c['id'] for c in nb['cells']]
    assert len(ids) == len(set(ids))
    assert ''.join(nb['cells'][0]['source']).startswith('# ')
    for c in nb['cells']:
        assert c['metadata'] == {}, c['id']
        if c['cell_type'] != 'code': continue
        assert c['execution_count'] is None, c['id']
        for o in c['outputs']: assert o['output_type'] != 'error' and o.get('execution_count') is None, c['id']

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda o: str(o.relative_to(ROOT/'nbs')))
def test_imports_stand_in_cells_of_their_own(path):
    "nbdev runs every cell that imports, to show signatures; what else stands in it is run too."
    for c in json.loads(path.read_text(encoding='utf-8'))['cells']:
        source = ''.join(c['source'])
        if c['cell_type'] != 'code' or re.search(r'^#\| *(export|exports|exporti|exec_doc|eval: *false)\b', source, re.M) or re.search('^[!%]', source, re.M): continue
        body,imports = ast.parse(source).body,(ast.Import, ast.ImportFrom)
        some = any(isinstance(n, imports) for o in body for n in ast.walk(o))
        mixed = some and not all(isinstance(o, imports) or isinstance(o, ast.With) and ast.unparse(o).startswith('with suppress(ImportError):') for o in body)
        assert not mixed, f"{c['id']}: imports and other code in one cell"


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda o: str(o.relative_to(ROOT/'nbs')))
def test_notebook_names_no_machine(path):
    "Neither code nor outputs (a warning that was stored, say) hold paths of somebody's machine."
    for c in json.loads(path.read_text(encoding='utf-8'))['cells']:
        text = ''.join(c['source']) + ''.join(json.dumps(o) for o in c.get('outputs', []) if 'image/png' not in o.get('data', {}))
        found = re.search(r'.{,40}(/(home|Users)/\w|/root/|/tmp/\w+/\w|site-packages).{,60}', text)
        assert not found, f'cell {c["id"]}: {found[0]}'


# README

def test_readme_is_generated(tool):
    assert text('README.md') == tool.readme(json.loads(text('nbs/index.ipynb'))), 'edit nbs/index.ipynb, then `make readme`'

def cell(kind, source, *outputs): return dict(cell_type=kind, source=source.splitlines(True), outputs=list(outputs))

def test_readme_tool(tool):
    "Directives, outputs and links."
    result = dict(output_type='execute_result', data={'text/plain': ["'a'\n", '1']})
    printed = dict(output_type='stream', text=['hello\n'])
    got = tool.readme(dict(cells=[
        cell('raw', '---'),
        cell('markdown', '# T\n[a](../A.md) [b](https://x.y/z) [c](#c) ![d](img/d.png) `[e](f)`\n```\n[g](h)\n```'),
        cell('code', '#| hide\nsecret', printed),
        cell('code', '#| echo: false\nsecret', printed),
        cell('code', '#| output: false\nshown()', printed),
        cell('code', 'print("hello")\nx', printed, result)]))
    assert got.split('\n\n', 1)[1] == '''# T
[a](A.md) [b](https://x.y/z) [c](#c) ![d](nbs/img/d.png) `[e](f)`
```
[g](h)
```

    hello

```python
shown()
```

```python
print("hello")
x
```

    hello
    'a'
    1
'''

def test_readme_tool_refuses_pictures(tool):
    with pytest.raises(SystemExit, match='image/png.*save the picture as a file'):
        tool.readme(dict(cells=[cell('code', 'plot()', dict(output_type='display_data', data={'image/png': '', 'text/plain': '<Figure>'}))]))

@pytest.mark.parametrize('name', ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'])
def test_links_lead_somewhere(name):
    md = re.sub(r'<!--.*?-->|^```.*?^```$', '', text(name), flags=re.M|re.S)
    anchors = {re.sub(r'[^\w -]', '', o.lower()).strip().replace(' ', '-') for o in re.findall(r'^#+ (.*)$', md, flags=re.M)}
    for to in re.findall(r'\]\(([^)\s]+)\)', md):
        if re.match(r'[a-z]+:', to): continue
        path,_,anchor = to.partition('#')
        assert (ROOT/path).exists() if path else anchor in anchors, to

def test_readme_on_pypi():
    "What setup.py hands to PyPI has no link that needs the repository around it, and has the pictures themselves."
    out = subprocess.run([sys.executable, 'setup.py', '--long-description'], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    links = re.findall(r'\]\(([^)\s]+)\)', out)
    assert len(links) > 5 and [o for o in links if not re.match(r'https://|#', o)] == []
    base = settings()['git_url']
    for o in links:
        if o.startswith(base + '/'): assert re.match(r'(blob|raw)/main/', o[len(base)+1:]) and (ROOT/o[len(base)+1:].split('/', 2)[2]).exists(), o
    assert all('/raw/' in o for o in re.findall(r'!\[[^]]*\]\(([^)]+)\)', out))

def test_readme_begins_with_two_commands():
    code = re.findall(r'^```bash\n(.*?)^```', text('README.md'), flags=re.M|re.S)[0]
    assert code.index('git clone') < code.index('make study') < code.index('make test')

def test_home_page_shows_what_its_code_gives(monkeypatch):
    "The code cells of the home page run one after the other, and give the text that is stored below each."
    monkeypatch.chdir(ROOT/'nbs') # where Jupyter runs it
    space = {}
    for c in json.loads(text('nbs/index.ipynb'))['cells']:
        if c['cell_type'] != 'code': continue
        body = ast.parse(''.join(c['source'])).body
        last = ast.Expression(body.pop().value) if isinstance(body[-1], ast.Expr) else None
        with redirect_stdout(StringIO()) as out:
            exec(compile(ast.Module(body, []), 'index', 'exec'), space)
            value = eval(compile(last, 'index', 'eval'), space) if last else None
        got = out.getvalue() + ('' if value is None else repr(value))
        want = ''.join(''.join(o.get('text', o.get('data', {}).get('text/plain', ''))) for o in c['outputs'])
        assert re.sub(r'\s', '', got) == re.sub(r'\s', '', want)


# In sync

def test_check_sees_everything(tmp_path):
    "A small project is in sync after exporting; then each kind of difference is found, and nothing is repaired on the way."
    pytest.importorskip('nbdev')
    check = load('check')
    def write(name, *cells): (tmp_path/'nbs'/f'{name}.ipynb').write_text(json.dumps(dict(nbformat=4, nbformat_minor=5, metadata={}, cells=[
        dict(id=f'{name}{i}', metadata={}, execution_count=None, **c) if c['cell_type'] == 'code' else dict(id=f'{name}{i}', metadata={}, cell_type='markdown', source=c['source'])
        for i,c in enumerate(cells)])))
    (tmp_path/'nbs').mkdir()
    for name in ('settings.ini', 'pyproject.toml'): (tmp_path/name).write_text(text(name))
    write('index', cell('markdown', '# Home'))
    write('mod', cell('markdown', '# Mod'), cell('code', '#| default_exp mod'), cell('code', '#| export\ndef f(): "One."'))
    (tmp_path/'granularity_nb').mkdir()
    (tmp_path/'granularity_nb'/'__init__.py').write_text('')
    check.regenerate(tmp_path)
    assert check.check(tmp_path) == []

    def found(name, change):
        path = tmp_path/name
        old = path.read_bytes() if path.exists() else None
        change(path)
        new = path.read_bytes() if path.exists() else None
        got = check.check(tmp_path)
        assert (path.read_bytes() if path.exists() else None) == new
        path.unlink(missing_ok=True)
        if old is not None: path.write_bytes(old)
        return got
    def append(more): return lambda path: path.write_text(path.read_text() + more)
    for name,change,want in [
        ('granularity_nb/mod.py', append('x = 1\n'), 'granularity_nb/mod.py: not what the notebooks generate'),
        ('granularity_nb/mod.py', lambda path: path.unlink(), 'granularity_nb/mod.py: missing'),
        ('granularity_nb/old.py', lambda path: path.write_text('# AUTOGENERATED! DO NOT EDIT! File to edit: ../nbs/old.ipynb.\n'), 'granularity_nb/old.py: no notebook writes it'),
        ('README.md', append('more'), 'README.md: not what'),
        ('pyproject.toml', lambda path: path.write_text(path.read_text().replace('>=3.10', '>=3.8')), 'pyproject.toml: not what'),
        ('nbs/mod.ipynb', lambda path: path.write_text(path.read_text().replace('"execution_count": null', '"execution_count": 7')), 'nbs/mod.ipynb: not what')]:
        got = found(name, change)
        assert len(got) == 1 and got[0].startswith(want), (name, got)
    assert check.check(tmp_path) == []


def test_only_environments_are_removed(tmp_path):
    "`make clean-env VENV=~/work` must not remove that."
    shutil.copy(ROOT/'Makefile', tmp_path)
    for name in ('granularity_nb','nbs','tests','tools','docs','env','work'): (tmp_path/name).mkdir()
    (tmp_path/'env'/'pyvenv.cfg').write_text('')
    (tmp_path/'work'/'thesis.tex').write_text('x')
    subprocess.run(['make', 'clean-env', 'VENV=work', 'NEWEST=env'], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path/'work'/'thesis.tex').exists() and not (tmp_path/'env').exists()
