"""Write README.md from nbs/index.ipynb (nbdev_readme would need Quarto).  python tools/readme.py

Markdown cells are taken as they are, code cells as Python with their stored text output below. Directives work as on
the site: `#| hide` drops a cell, `#| echo: false` its code, `#| output: false` its output. Links and pictures, which are
relative to nbs/, are made relative to the README. A picture must lie in a file: GitHub shows no pictures from notebooks."""
import json, posixpath, re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_directive = re.compile(r'#\s*\|\s*(.+)')
_link = re.compile(r'(\]\(|(?:src|href)=")([^)\s"]+)')

def _split(source):
    "The directives at the top of a cell, and the rest of it."
    lines = source.split('\n')
    n = next((i for i,o in enumerate(lines) if not _directive.match(o)), len(lines))
    return {re.sub(r'\s+', ' ', _directive.match(o)[1]).strip() for o in lines[:n]}, '\n'.join(lines[n:]).strip('\n')

def _relink(text, folder):
    "Relative links of a notebook in `folder`, seen from the repository's root; code blocks are left alone."
    def moved(m):
        to = m[2]
        return m[0] if re.match(r'[a-z]+:|[#/]', to) else m[1] + posixpath.normpath(posixpath.join(folder, to))
    parts = re.split(r'(^```.*?^```$|`[^`\n]+`)', text, flags=re.M|re.S)
    return ''.join(o if i%2 else _link.sub(moved, o) for i,o in enumerate(parts))

def _output(o):
    "One stored output as text, or nothing."
    if o['output_type'] == 'stream': return ''.join(o['text'])
    data = o.get('data', {})
    if 'text/plain' not in data or any(k.startswith('image/') for k in data):
        raise SystemExit(f"nbs/index.ipynb: an output of type {', '.join(data) or o['output_type']} cannot stand in the README; "
                         "save the picture as a file and show it with ![](…), or hide the cell")
    return ''.join(data['text/plain'])

def _code(cell):
    "A code cell as Markdown."
    flags,source = _split(''.join(cell['source']))
    if flags & {'hide', 'include: false'}: return ''
    shown = [] if flags & {'echo: false', 'hide_input'} or not source else [f'```python\n{source}\n```']
    if not flags & {'output: false', 'hide_output'}:
        text = ''.join(_output(o).rstrip('\n') + '\n' for o in cell['outputs']).rstrip()
        if text: shown.append('\n'.join(('    '+o).rstrip() for o in text.split('\n')))
    return '\n\n'.join(shown)

def readme(notebook, folder='nbs'):
    "The Markdown for `notebook`, a parsed ipynb file that lies in `folder`."
    parts = ['<!-- Written by tools/readme.py from nbs/index.ipynb: edit there, then `make readme` -->']
    for c in notebook['cells']:
        if c['cell_type'] == 'markdown': parts.append(_relink(''.join(c['source']), folder).strip())
        elif c['cell_type'] == 'code': parts.append(_code(c))
    return '\n\n'.join(o for o in parts if o) + '\n'

def main(root=ROOT):
    new = readme(json.loads((root/'nbs'/'index.ipynb').read_text(encoding='utf-8')))
    (root/'README.md').write_text(new, encoding='utf-8')

if __name__ == '__main__':
    if sys.argv[1:]: raise SystemExit(__doc__)
    main()
