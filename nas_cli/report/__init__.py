"""One page a person looks at: what a run did and found, or how several runs compare.

record.py      what a page reads of a run folder
story.py       the same in words: the result in one sentence, the facts, the commands to give next
chart.py       lines, points, heat maps and bars as inline SVG without script
figures.py     which charts a run gets
comparison.py  several runs: groups, mean, deviation, a test of the difference
page.py        the files: HTML by Jinja2 from templates/, Markdown, CSV
"""

from nas_cli.report.page import FORMATS, report_after, write_comparison, write_report

__all__ = ["FORMATS", "report_after", "write_comparison", "write_report"]
