"""What dashboards are made of: queries, panels, rows, and how they are laid out.

Gives every panel what the others have, so that a board reads as one. Never
names a metric.
"""

PROMETHEUS = {"type": "prometheus", "uid": "prometheus"}
TEMPO = {"type": "tempo", "uid": "tempo"}

# Grafana's grid.
COLUMNS = 24


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


def _panel(kind, title, description, queries, unit, width, height, defaults, options, datasource):
    for letter, one in zip("ABCDEFGH", queries):
        one["refId"] = letter
    return {"type": kind, "title": title, "description": description, "datasource": datasource,
            "targets": list(queries), "fieldConfig": {"defaults": {"unit": unit, **defaults}, "overrides": []},
            "options": options, "gridPos": {"w": width, "h": height, "x": 0, "y": 0}}


def figure(title, description, expr, unit, thresholds=PLAIN, width=4, decimals=None, spark=True):
    """One figure, with its course behind it."""
    defaults = {"thresholds": thresholds, "color": {"mode": "thresholds"}}
    if decimals is not None:
        defaults["decimals"] = decimals
    options = {"colorMode": "value", "graphMode": "area" if spark else "none", "justifyMode": "auto",
               "textMode": "auto", "wideLayout": True,
               "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
    one = query(expr) if spark else now(expr)
    return _panel("stat", title, description, [one], unit, width, 4, defaults, options, PROMETHEUS)


def course(title, description, queries, unit, line=None, stacked=False, width=12, height=8, **defaults):
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
    return _panel("timeseries", title, description, queries, unit, width, height, fields, options, PROMETHEUS)


def heatmap(title, description, one, unit, width=12, height=9):
    """How values spread over time; dots are exemplars, where the query has some."""
    one["format"] = "heatmap"
    one["legendFormat"] = "{{le}}"
    options = {"calculate": False, "cellGap": 1, "yAxis": {"unit": unit, "axisPlacement": "left"},
               "color": {"mode": "scheme", "scheme": "Turbo", "steps": 64, "exponent": 0.5, "fill": "dark-orange"},
               "exemplars": {"color": "rgba(255,0,255,0.7)"}, "legend": {"show": True},
               "tooltip": {"mode": "single", "yHistogram": True}, "filterValues": {"le": 1e-9},
               "rowsFrame": {"layout": "auto"}}
    return _panel("heatmap", title, description, [one], unit, width, height, {}, options, PROMETHEUS)


def bars(title, description, expr, legend, unit, thresholds=PLAIN, width=12, height=8):
    """Bars of what is now."""
    defaults = {"thresholds": thresholds, "color": {"mode": "thresholds"}, "min": 0}
    options = {"displayMode": "basic", "orientation": "horizontal", "showUnfilled": True, "valueMode": "color",
               "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
    return _panel("bargauge", title, description, [now(expr, legend)], unit, width, height,
                  defaults, options, PROMETHEUS)


def states(title, description, expr, legend, mappings, width=24, height=12):
    """States over time, a row for each series; mappings are (value, text, colour)."""
    told = {str(value): {"text": text, "color": color, "index": index}
            for index, (value, text, color) in enumerate(mappings)}
    defaults = {"mappings": [{"type": "value", "options": told}], "color": {"mode": "thresholds"},
                "thresholds": PLAIN, "custom": {"lineWidth": 0, "fillOpacity": 70}}
    options = {"mergeValues": True, "showValue": "never", "alignValue": "left", "rowHeight": 0.85,
               "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
               "tooltip": {"mode": "single", "sort": "none"}}
    return _panel("state-timeline", title, description, [query(expr, legend)], "none", width, height,
                  defaults, options, PROMETHEUS)


def table(title, description, queries, columns, unit="none", hidden=(), width=24, height=9):
    """A table that joins queries by their labels; columns are (refId, name, unit)."""
    for one in queries:
        one["format"] = "table"
    made = _panel("table", title, description, queries, unit, width, height,
                  {"custom": {"align": "auto", "filterable": True}},
                  {"showHeader": True, "cellHeight": "sm"}, PROMETHEUS)
    made["transformations"] = [
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": {"Time": True, **{name: True for name in hidden}},
                                       "renameByName": {f"Value #{ref}": name for ref, name, _ in columns}}}]
    made["fieldConfig"]["overrides"] = [
        {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "unit", "value": unit}]}
        for _, name, unit in columns]
    return made


def found(title, description, traceql, width=12, height=9):
    """A table of traces; a click on one opens it."""
    return _panel("table", title, description, [traces(traceql)], "none", width, height,
                  {"custom": {"align": "auto", "filterable": False}},
                  {"showHeader": True, "cellHeight": "sm"}, TEMPO)


def services(title, description, width=24, height=12):
    """Tempo's graph of the services."""
    one = {"datasource": TEMPO, "queryType": "serviceMap", "limit": 20, "tableType": "traces"}
    return _panel("nodeGraph", title, description, [one], "none", width, height, {},
                  {"nodes": {}, "edges": {}}, TEMPO)


def row(title, *panels):
    """A row and what stands in it."""
    return {"type": "row", "title": title, "collapsed": False, "panels": [],
            "gridPos": {"w": COLUMNS, "h": 1, "x": 0, "y": 0}}, list(panels)


def _laid_out(rows):
    """Panels from left to right, with a number each."""
    y, made = 0, []
    for head, panels in rows:
        head["gridPos"]["y"] = y
        y += 1
        made.append(head)
        x = height = 0
        for panel in panels:
            place = panel["gridPos"]
            if x + place["w"] > COLUMNS:
                x, y, height = 0, y + height, 0
            place["x"], place["y"] = x, y
            x, height = x + place["w"], max(height, place["h"])
            made.append(panel)
        y += height
    for number, panel in enumerate(made, 1):
        panel["id"] = number
    return made


def dashboard(uid, title, description, *rows, span="now-1h"):
    """A whole dashboard."""
    return {"uid": uid, "title": title, "description": description, "tags": ["paystream"],
            "schemaVersion": 39, "version": 1, "editable": False, "graphTooltip": 1, "refresh": "10s",
            "timezone": "browser", "time": {"from": span, "to": "now"}, "panels": _laid_out(rows),
            "links": [{"type": "dashboards", "title": "paystream", "tags": ["paystream"], "asDropdown": True,
                       "includeVars": False, "keepTime": True, "targetBlank": False, "icon": "external link",
                       "tooltip": "", "url": ""}],
            "templating": {"list": []}, "annotations": {"list": []}}
