"""What dashboards are made of: queries, panels, rows, variables, annotations, and the layout.

Gives every panel what the others have, so that a board reads as one. Never
names a metric.

How Grafana treats these options was read in its sources and documentation
(grafana/grafana); no Grafana has drawn them.
"""

import alerts

PROMETHEUS = {"type": "prometheus", "uid": "prometheus"}
TEMPO = {"type": "tempo", "uid": "tempo"}

# Grafana's grid.
COLUMNS = 24

# Unknown, but not by a fault.
GREY = "#8e8e8e"

# Payments and requests in a second. Grafana's own "reqps" would call payments requests.
PER_SECOND = "suffix:/s"

# Where one trace is shown. Explore needs more than the role Viewer, so links lead here.
TRACES_BOARD = "paystream-traces"


def trace_link(trace):
    """The board of traces, with one trace open."""
    return f"/d/{TRACES_BOARD}?var-trace={trace}&${{__url_time_range}}"


def query(expr, legend="", exemplar=False, **more):
    """A query of Prometheus over time."""
    return {"datasource": PROMETHEUS, "expr": expr, "legendFormat": legend or "__auto",
            "range": True, "instant": False, "exemplar": exemplar, "editorMode": "code", **more}


def now(expr, legend="", **more):
    """A query of Prometheus at the end of the time that is shown."""
    return {"datasource": PROMETHEUS, "expr": expr, "legendFormat": legend or "__auto",
            "range": False, "instant": True, "editorMode": "code", **more}


def traces(traceql, limit=20):
    """A search for traces in Tempo."""
    return {"datasource": TEMPO, "queryType": "traceql", "query": traceql, "limit": limit,
            "tableType": "traces", "spss": 3}


def limits(*steps):
    """Colours by value: ("green", None), ("red", 10000) and so on."""
    return {"mode": "absolute", "steps": [{"color": color, "value": value} for color, value in steps]}


def below(limit, warning=None):
    """Good below a limit."""
    steps = [("green", None)]
    if warning is not None:
        steps.append(("orange", warning))
    return limits(*steps, ("red", limit))


PLAIN = limits(("text", None))


def link(title, url):
    """A link in the head of a panel."""
    return {"type": "link", "title": title, "url": url, "targetBlank": True, "asDropdown": False, "icon": "external link",
            "includeVars": False, "keepTime": False, "tags": [], "tooltip": ""}


def _panel(kind, title, description, queries, unit, width, height, defaults, options, datasource, missing):
    """What every panel has. A description that ends with "RUNBOOK: heading; heading." links to them;
    missing is shown where a query answers nothing."""
    for letter, one in zip("ABCDEFGH", queries):
        one["refId"] = letter
    headings = [heading for named in description.split("RUNBOOK: ")[1:] for heading in named.rstrip(".").split("; ")]
    return {"type": kind, "title": title, "description": description, "datasource": datasource,
            "targets": list(queries),
            "fieldConfig": {"defaults": {"unit": unit, "noValue": missing, **defaults}, "overrides": []},
            "links": [link(f"RUNBOOK: {heading}", alerts.runbook(heading)) for heading in headings],
            "options": options, "gridPos": {"w": width, "h": height, "x": 0, "y": 0}}


def _special(match, text, color):
    return {"type": "special", "options": {"match": match, "result": {"text": text, "color": color}}}


def _values(*mappings):
    """Texts and colours by value: (0, "down", "red") and so on."""
    told = {str(value): {"text": text, "index": index, **({"color": color} if color else {})}
            for index, (value, text, color) in enumerate(mappings)}
    return [{"type": "value", "options": told}] if told else []


# A stat without a value has the colour of the lowest threshold, which is green
# more often than not: a mapping must say otherwise.
def figure(title, description, expr, unit, missing, thresholds=PLAIN, width=4, decimals=None, idle=None,
           mappings=(), unknown="red"):
    """One figure, or one for each (legend, query): what is now, never an older value. Missing and its colour
    stand for an empty answer, idle for NaN: a share of nothing."""
    several = not isinstance(expr, str)
    special = [_special("null", missing, unknown)] + ([_special("nan", idle, GREY)] if idle else [])
    defaults = {"thresholds": thresholds, "color": {"mode": "thresholds"}, "mappings": _values(*mappings) + special}
    if decimals is not None:
        defaults["decimals"] = decimals
    options = {"colorMode": "value", "graphMode": "none", "justifyMode": "auto",
               "textMode": "value_and_name" if several else "value", "wideLayout": True,
               "reduceOptions": {"calcs": ["last"], "fields": "", "values": False}}
    queries = [now(one, legend) for legend, one in expr] if several else [now(expr)]
    return _panel("stat", title, description, queries, unit, width, 4, defaults, options, PROMETHEUS, missing)


def course(title, description, queries, unit, line=None, stacked=False, width=12, height=8,
           missing="no telemetry in this time", **defaults):
    """Courses over time, with a line at a limit when there is one."""
    custom = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 30 if stacked else 8,
              "showPoints": "never", "spanNulls": False,
              "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
              "thresholdsStyle": {"mode": "off"}}
    fields = {"custom": custom, "color": {"mode": "palette-classic"}, "min": 0, **defaults}
    if line is not None:
        custom["thresholdsStyle"] = {"mode": "dashed"}
        fields["thresholds"] = line
    options = {"legend": {"displayMode": "table", "placement": "bottom", "showLegend": True,
                          "calcs": ["lastNotNull", "max"]},
               "tooltip": {"mode": "multi", "sort": "desc"}}
    return _panel("timeseries", title, description, queries, unit, width, height, fields, options, PROMETHEUS, missing)


def heatmap(title, description, one, unit, width=12, height=9):
    """How values spread over time; dots are exemplars, where the query has some."""
    one["format"] = "heatmap"
    one["legendFormat"] = "{{le}}"
    options = {"calculate": False, "cellGap": 1, "yAxis": {"unit": unit, "axisPlacement": "left"},
               "color": {"mode": "scheme", "scheme": "Turbo", "steps": 64, "exponent": 0.5, "fill": "dark-orange"},
               "exemplars": {"color": "rgba(255,0,255,0.7)"}, "legend": {"show": True},
               "tooltip": {"mode": "single", "yHistogram": True}, "filterValues": {"le": 1e-9},
               "rowsFrame": {"layout": "auto"}}
    return _panel("heatmap", title, description, [one], unit, width, height, {}, options, PROMETHEUS,
                  "no telemetry in this time")


def bars(title, description, expr, legend, unit, missing, thresholds=PLAIN, width=12, height=8):
    """Bars of what is now."""
    defaults = {"thresholds": thresholds, "color": {"mode": "thresholds"}, "min": 0,
                "mappings": [_special("null", missing, "red")]}
    options = {"displayMode": "basic", "orientation": "horizontal", "showUnfilled": True, "valueMode": "color",
               "reduceOptions": {"calcs": ["last"], "fields": "", "values": False}}
    return _panel("bargauge", title, description, [now(expr, legend)], unit, width, height,
                  defaults, options, PROMETHEUS, missing)


def states(title, description, expr, legend, mappings, width=24, height=12):
    """States over time, a row for each series; mappings are (value, text, colour)."""
    defaults = {"mappings": _values(*mappings), "color": {"mode": "thresholds"},
                "thresholds": PLAIN, "custom": {"lineWidth": 0, "fillOpacity": 70}}
    options = {"mergeValues": True, "showValue": "never", "alignValue": "left", "rowHeight": 0.85,
               "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
               "tooltip": {"mode": "single", "sort": "none"}}
    return _panel("state-timeline", title, description, [query(expr, legend)], "none", width, height,
                  defaults, options, PROMETHEUS, "no telemetry in this time")


def _by_name(name, *properties):
    """What a column has that others have not."""
    return {"matcher": {"id": "byName", "options": name},
            "properties": [{"id": key, "value": value} for key, value in properties]}


def _rows(title, description, queries, datasource, missing, width, height):
    return _panel("table", title, description, queries, "none", width, height,
                  {"custom": {"align": "auto", "filterable": True}},
                  {"showHeader": True, "cellHeight": "sm"}, datasource, missing)


def _columns(made, order, hidden=(), renamed=None):
    made["transformations"] = [
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": {"Time": True, **{name: True for name in hidden}},
                                       "indexByName": {name: index for index, name in enumerate(order)},
                                       "renameByName": renamed or {}}}]


def table(title, description, queries, columns, missing, labels=(), hidden=(), width=24, height=9):
    """A table that joins queries by their labels; columns are (refId, name, unit), labels come before them."""
    for one in queries:
        one["format"] = "table"
    made = _rows(title, description, queries, PROMETHEUS, missing, width, height)
    values = {f"Value #{ref}": name for ref, name, _ in columns}
    _columns(made, [*labels, *values], hidden, values)
    made["fieldConfig"]["overrides"] = [_by_name(name, ("unit", unit)) for _, name, unit in columns]
    return made


def firing(title, description, expr, hidden, missing, width=12, height=8):
    """A table of alerts: their severity, their name, where, and the section of the RUNBOOK."""
    made = _rows(title, description, [{**now(expr), "format": "table"}], PROMETHEUS, missing, width, height)
    _columns(made, ["severity", "alertname", "where", "runbook"], ["Value", *hidden], {"alertname": "alert"})
    severities = [("critical", "critical", "red"), ("warning", "warning", "orange"), ("none", "none", GREY)]
    sections = [(name, section, None) for name, section in alerts.SECTIONS.items()]
    # The cell has the alert's name, and shows the section; the link takes what is shown.
    address = alerts.RUNBOOK + "#${__value.text}"
    made["fieldConfig"]["overrides"] = [
        _by_name("severity", ("mappings", _values(*severities)),
                 ("custom.cellOptions", {"type": "color-background", "mode": "basic"})),
        _by_name("runbook", ("mappings", _values(*sections)),
                 ("links", [{"title": "RUNBOOK", "url": address, "targetBlank": True}]))]
    return made


def found(title, description, traceql, width=12, height=9):
    """A table of traces; a click on one shows it on the board of traces."""
    made = _rows(title, description, [traces(traceql)], TEMPO, "no such trace in this time", width, height)
    # In place of Tempo's own link, which leads to Explore.
    made["fieldConfig"]["overrides"] = [
        _by_name("traceID", ("links", [{"title": "Show this trace", "url": trace_link("${__value.raw}")}]))]
    return made


def trace(title, description, variable, width=24, height=20):
    """One trace, span by span."""
    return _panel("traces", title, description, [traces(f"${variable}")], "none", width, height, {}, {}, TEMPO,
                  "no such trace")


def services(title, description, width=24, height=12):
    """Tempo's graph of the services."""
    one = {"datasource": TEMPO, "queryType": "serviceMap", "limit": 20, "tableType": "traces"}
    return _panel("nodeGraph", title, description, [one], "none", width, height, {},
                  {"nodes": {}, "edges": {}}, TEMPO, "no sampled trace in this time")


def choice(name, label, values):
    """A variable of the values that a label has; several of them, or all."""
    return {"type": "query", "name": name, "label": label, "datasource": PROMETHEUS,
            "query": {"query": values, "refId": name}, "multi": True, "includeAll": True, "allValue": ".+",
            "current": {"text": ["All"], "value": ["$__all"]}, "refresh": 2, "sort": 3, "options": []}


def entry(name, label):
    """A variable that is typed, or comes with a link."""
    return {"type": "textbox", "name": name, "label": label, "query": "",
            "current": {"text": "", "value": ""}, "options": []}


def annotation(name, color, expr, title, text):
    """Marks on the time axis, where a query is above 0. Grafana joins marks that are a step apart."""
    return {"name": name, "datasource": PROMETHEUS, "enable": True, "hide": False, "iconColor": color,
            "expr": expr, "step": "1m", "titleFormat": title, "textFormat": text}


def row(title, *panels, collapsed=False):
    """A row and what stands in it; nothing of a collapsed one is asked for until it is opened."""
    return {"type": "row", "title": title, "collapsed": collapsed, "panels": [],
            "gridPos": {"w": COLUMNS, "h": 1, "x": 0, "y": 0}}, list(panels)


def _laid_out(rows):
    """Panels from left to right, with a number each; those of a collapsed row within it."""
    y, number, made = 0, 0, []
    for head, panels in rows:
        head["gridPos"]["y"] = y
        y += 1
        made.append(head)
        below_head, x, height = y, 0, 0
        for panel in panels:
            place = panel["gridPos"]
            if x + place["w"] > COLUMNS:
                x, y, height = 0, y + height, 0
            place["x"], place["y"] = x, y
            x, height = x + place["w"], max(height, place["h"])
        for one in (head, *panels):
            number += 1
            one["id"] = number
        if head["collapsed"]:
            head["panels"], y = panels, below_head
        else:
            made.extend(panels)
            y += height
    return made


def dashboard(uid, title, description, *rows, span="now-1h", variables=(), annotations=()):
    """A whole dashboard."""
    return {"uid": uid, "title": title, "description": description, "tags": ["paystream"],
            "schemaVersion": 39, "version": 1, "editable": False, "graphTooltip": 1, "refresh": "10s",
            "timezone": "browser", "time": {"from": span, "to": "now"}, "panels": _laid_out(rows),
            "links": [{"type": "dashboards", "title": "paystream", "tags": ["paystream"], "asDropdown": True,
                       "includeVars": False, "keepTime": True, "targetBlank": False, "icon": "external link",
                       "tooltip": "", "url": ""}],
            "templating": {"list": list(variables)}, "annotations": {"list": list(annotations)}}
