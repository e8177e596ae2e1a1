#!/usr/bin/env python3
"""Draws a JSON report of spotlight-eval as PNG files.

    training/evaluation/plot.py REPORT.json OUT_DIR

heads_*.png: recB and massC by layer and KV head, for each selector, at a budget of 2%. budgets.png: budget against quality, when several
were measured. needle_*.png: the needle grid. tasks.png: generated tasks. perplexity.png: perplexity over oracle B's.
Needs matplotlib.
"""
import json
import math
import os
import re
import sys

try:
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    import matplotlib.ticker
except ImportError as error:
    sys.exit(f'{sys.argv[0]}: needs matplotlib (apt-get install python3-matplotlib): {error}')

# Okabe and Ito's colours, told apart with any colour vision; markers say the same once more.
COLOURS = ['#000000', '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#7F7F7F']
MARKERS = ['o', 's', '^', 'D', 'v', 'P', 'X', '*']
SEQUENTIAL = 'viridis'  # lightness alone says the order
plt.rcParams.update({'figure.dpi': 150, 'font.size': 9, 'axes.spines.top': False, 'axes.spines.right': False,
                     'axes.grid': False, 'legend.frameon': False})


def name_of(selector):
    """hash:/long/path/x.safetensors -> hash:x"""
    kind, _, path = selector.partition(':')
    return f'{kind}:{os.path.splitext(os.path.basename(path))[0]}' if path else kind


def style(order, selector):
    i = order.index(selector)
    return dict(color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)],
                linestyle=['-', '--', ':'][i // len(COLOURS) % 3])


def percent(share):
    return f'{100 * share:g}%'


def model_of(report):
    return os.path.basename(report['model']['folder'].rstrip('/'))


def save(figure, folder, name):
    path = os.path.join(folder, re.sub(r'[^\w.%-]+', '_', name))
    figure.savefig(path, bbox_inches='tight')
    plt.close(figure)
    print(path)


def distinct(rows, key):
    return list(dict.fromkeys(row[key] for row in rows))


def draw_heads(report, folder):
    """One picture for each measure and context, at 2%: a panel for each selector, layers across, KV heads down."""
    rows = report['heads']
    for measure, title in (('rec_b', 'recB: share of oracle B’s tokens that are found'),
                           ('mass_c', 'massC: share of the candidates’ attention mass that is caught')):
        budgets = distinct(rows, 'budget')
        for budget in [0.02] if 0.02 in budgets else budgets[:1]:
            for context in distinct(rows, 'context'):
                chosen = [row for row in rows if row['budget'] == budget and row['context'] == context]
                selectors = [s for s in distinct(chosen, 'selector') if not (measure == 'rec_b' and s == 'oracle-b')]
                layers, heads = distinct(chosen, 'layer'), distinct(chosen, 'head')
                columns = 2 if len(selectors) > 1 else 1
                lines = math.ceil(len(selectors) / columns)
                figure, axes = plt.subplots(lines, columns, sharex=True, sharey=True, squeeze=False,
                                            figsize=(0.16 * len(layers) * columns + 1.6,
                                                     (0.16 * len(heads) + 0.42) * lines + 1.0), layout='constrained')
                for axis in axes.flat[len(selectors):]:
                    axis.set_visible(False)
                for axis, selector in zip(axes.flat, selectors):
                    values = {(row['head'], row['layer']): row[measure] for row in chosen if row['selector'] == selector}
                    grid = [[values[head, layer] for layer in layers] for head in heads]
                    image = axis.imshow(grid, vmin=0, vmax=1, cmap=SEQUENTIAL, aspect='auto')
                    mean = sum(map(sum, grid)) / (len(layers) * len(heads))
                    axis.set_title(f'{name_of(selector)} (mean {mean:.3f})', fontsize=8, loc='left')
                    ticks = [i for i, layer in enumerate(layers) if layer % 4 == 0]
                    axis.set_xticks(ticks, [layers[i] for i in ticks], fontsize=7)
                    axis.set_yticks(range(len(heads)), heads, fontsize=7)
                    axis.spines[:].set_visible(False)
                for axis in axes.flat[max(0, len(selectors) - columns):len(selectors)]:
                    axis.xaxis.set_tick_params(labelbottom=True)
                figure.supxlabel('layer', fontsize=9)
                figure.supylabel('KV head', fontsize=9)
                figure.suptitle(f'{title}\n{model_of(report)}, {context:,} tokens, budget {percent(budget)}', fontsize=10)
                figure.colorbar(image, ax=axes, label=measure.replace('_b', 'B').replace('_c', 'C'), shrink=0.8,
                                aspect=30)
                save(figure, folder, f'heads_{measure}_{context}_{percent(budget)}.png')


def draw_budgets(report, folder):
    rows = report['rows']
    budgets = sorted(distinct(rows, 'budget'))
    if len(budgets) < 2:
        return
    panels = (('rec_b', 'recB', 'share of oracle B’s tokens found'), ('iou_a', 'iouA', 'overlap with each head’s own best tokens'),
              ('mass_c', 'massC', 'attention mass caught'), ('err', 'err', 'relative error of the heads’ outputs'))
    for context in distinct(rows, 'context'):
        chosen = [row for row in rows if row['context'] == context]
        selectors = distinct(chosen, 'selector')
        figure, axes = plt.subplots(2, 2, figsize=(8.6, 6.4), sharex=True, layout='constrained')
        for axis, (measure, label, meaning) in zip(axes.flat, panels):
            for selector in selectors:
                values = {row['budget']: row[measure] for row in chosen if row['selector'] == selector}
                axis.plot([100 * b for b in budgets], [values[b] for b in budgets], label=name_of(selector), markersize=4,
                          linewidth=1.2, **style(selectors, selector))
            axis.set_xscale('log')
            axis.set_xticks([100 * b for b in budgets], [percent(b) for b in budgets])
            axis.minorticks_off()
            axis.set_ylabel(f'{label}: {meaning}', fontsize=8)
            axis.grid(axis='y', color='#dddddd', linewidth=0.6)
            if measure == 'err':
                axis.set_yscale('log')
                axis.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
                axis.yaxis.set_major_formatter('{x:g}')
                axis.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
            else:
                axis.set_ylim(0, 1.02)
        for axis in axes[1]:
            axis.set_xlabel('budget, share of the context')
        figure.legend(*axes.flat[0].get_legend_handles_labels(), loc='outside right center', fontsize=8)
        figure.suptitle(f'Quality by budget: {model_of(report)}, {context:,} tokens, '
                        f'{chosen[0]["sequences"]} sequences', fontsize=10)
        save(figure, folder, f'budgets_{context}.png')


def draw_needle(report, folder):
    """Log-probability of the right answer: dense beside each selector."""
    rows = report.get('needle', [])
    for budget in distinct(rows, 'budget'):
        chosen = [row for row in rows if row['budget'] == budget]
        lengths, depths = sorted(distinct(chosen, 'length')), sorted(distinct(chosen, 'depth'))
        panels = {'dense': {(row['depth'], row['length']): row['dense'] for row in chosen}}
        for selector in distinct(chosen, 'selector'):
            panels[name_of(selector)] = {(row['depth'], row['length']): row['value'] for row in chosen
                                         if row['selector'] == selector}
        columns = min(4, len(panels))
        lines = math.ceil(len(panels) / columns)
        figure, axes = plt.subplots(lines, columns, squeeze=False, sharex=True, sharey=True, layout='constrained',
                                    figsize=(0.55 * len(lengths) * columns + 1.8, 0.36 * len(depths) * lines + 1.4))
        for axis in axes.flat[len(panels):]:
            axis.set_visible(False)
        for axis, (label, values) in zip(axes.flat, panels.items()):
            grid = [[values[depth, length] for length in lengths] for depth in depths]
            image = axis.imshow(grid, vmin=-3, vmax=0, cmap=SEQUENTIAL, aspect='auto')
            for y, line in enumerate(grid):
                for x, value in enumerate(line):
                    axis.text(x, y, f'{value:.2f}', ha='center', va='center', fontsize=6,
                              color='black' if value > -1.3 else 'white')
            axis.set_title(label, fontsize=8, loc='left')
            axis.set_xticks(range(len(lengths)), [f'{length / 1024:g}K' for length in lengths], fontsize=7)
            axis.set_yticks(range(len(depths)), [percent(depth) for depth in depths], fontsize=7)
            axis.spines[:].set_visible(False)
        figure.supxlabel('length of the text, tokens', fontsize=9)
        figure.supylabel('depth of the fact', fontsize=9)
        figure.suptitle(f'Needle: log-probability per token of the right answer\n{model_of(report)}, '
                        f'budget {percent(budget)}', fontsize=10)
        figure.colorbar(image, ax=axes, label='mean log p per token (a digit guessed blindly: −2.3)', shrink=0.8,
                        aspect=30, extend='min')
        save(figure, folder, f'needle_{percent(budget)}.png')


def draw_bars(axis, groups, series, values, order, label):
    """values[series][group]; what is missing is left out."""
    width = 0.82 / len(series)
    for i, one in enumerate(series):
        places = [g + (i - (len(series) - 1) / 2) * width for g, group in enumerate(groups) if group in values[one]]
        axis.bar(places, [values[one][group] for group in groups if group in values[one]], width,
                 color=COLOURS[order.index(one) % len(COLOURS)], label=name_of(one),
                 hatch=['', '///', '...'][order.index(one) // len(COLOURS) % 3], edgecolor='white', linewidth=0.3)
    axis.set_xticks(range(len(groups)), groups, rotation=20, ha='right')
    axis.set_ylabel(label)
    axis.grid(axis='y', color='#dddddd', linewidth=0.6)
    axis.set_axisbelow(True)


def draw_tasks(report, folder):
    rows = report.get('tasks', [])
    for budget in distinct(rows, 'budget'):
        for length in distinct(rows, 'length'):
            chosen = [row for row in rows if row['budget'] == budget and row['length'] == length]
            series = ['dense'] + distinct(chosen, 'selector')
            values = {one: {} for one in series}
            for row in chosen:
                values['dense'][row['task']] = row['dense']
                values[row['selector']][row['task']] = row['value']
            figure, axis = plt.subplots(figsize=(9.5, 3.6), layout='constrained')
            draw_bars(axis, distinct(chosen, 'task'), series, values, series, 'mean log p per token of the answer')
            figure.legend(loc='outside right center', fontsize=8)
            axis.set_title(f'Generated tasks, closer to 0 is better: {model_of(report)}, {length:,} tokens, '
                           f'budget {percent(budget)}', fontsize=10)
            save(figure, folder, f'tasks_{length}_{percent(budget)}.png')


def draw_perplexity(report, folder):
    """By kind of text and of copying, all texts of a kind together, over oracle B's."""
    rows = [row for row in report.get('perplexity', []) if row['oracle_b']]
    for budget in distinct(rows, 'budget'):
        chosen = [row for row in rows if row['budget'] == budget]
        series = distinct(chosen, 'selector')
        values = {one: {} for one in series}
        groups = []
        for row in chosen:
            group = f'{row["text"].split("/")[0]}, {row["kind"]}'
            groups = groups if group in groups else groups + [group]
            values[row['selector']].setdefault(group, []).append(math.log(row['value'] / row['oracle_b']))
        for one in series:
            values[one] = {group: math.exp(sum(logs) / len(logs)) - 1 for group, logs in values[one].items()}
        figure, axis = plt.subplots(figsize=(9.5, 3.6), layout='constrained')
        draw_bars(axis, groups, series, values, series, 'perplexity over oracle B’s, less 1')
        axis.axhline(0, color='black', linewidth=0.8)
        axis.set_yscale('symlog', linthresh=0.1)
        figure.legend(loc='outside right center', fontsize=8)
        axis.set_title(f'Perplexity over oracle B’s: {model_of(report)}, budget {percent(budget)}', fontsize=10)
        save(figure, folder, f'perplexity_{percent(budget)}.png')


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        with open(sys.argv[1], encoding='utf-8') as file:
            report = json.load(file)
    except (OSError, ValueError) as error:
        sys.exit(f'plot.py: {sys.argv[1]}: {error}')
    if report.get('format') != 'spotlight-eval-1':
        sys.exit(f'plot.py: {sys.argv[1]}: is no report of spotlight-eval')
    try:
        os.makedirs(sys.argv[2], exist_ok=True)
        for draw in (draw_heads, draw_budgets, draw_needle, draw_tasks, draw_perplexity):
            draw(report, sys.argv[2])
    except OSError as error:
        sys.exit(f'plot.py: {error}')


if __name__ == '__main__':
    main()
