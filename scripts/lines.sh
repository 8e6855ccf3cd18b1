#!/bin/sh
# Prints how many lines of Rust each room and tool has: code, comments, tests, all,
# and the budget that ARCHITECTURE.md gives it.
set -eu
cd "$(dirname "$0")/.."
find src crates tests -name '*.rs' | sort | xargs awk '
	FNR == 1 {
		split(FILENAME, part, "/")
		room = part[1] == "src" ? part[2] : part[1] == "tests" ? "tests" : part[1] "/" part[2]
		sub(/\.rs$/, "", room)
		tested = FILENAME ~ /\/tests(\/|\.rs)/ || room == "tests"
	}
	/^#\[cfg\(test\)\]/ && !tested { tested = 1 }
	{
		all[room]++
		line = $0
		sub(/^[ \t]+/, "", line)
		if (tested) tests[room]++
		else if (line ~ /^\/\//) comments[room]++
		else if (line != "") code[room]++
	}
	END {
		while ((getline row < "ARCHITECTURE.md") > 0)
			if (row ~ /^\| `[a-z_\/]+` \| [0-9,]+ \|/) {
				split(row, cell, "|")
				gsub(/[ `]/, "", cell[2]); gsub(/[ ,]/, "", cell[3])
				budget[cell[2]] = cell[3]
			}
		form = "%-14s %8s %9s %8s %8s %8s\n"
		printf form, "", "code", "comments", "tests", "all", "budget"
		count = 0
		for (room in all) names[++count] = room
		for (i = 1; i <= count; i++)
			for (j = i + 1; j <= count; j++)
				if (all[names[j]] > all[names[i]]) { t = names[i]; names[i] = names[j]; names[j] = t }
		for (i = 1; i <= count; i++) {
			room = names[i]
			printf form, room, code[room] + 0, comments[room] + 0, tests[room] + 0, all[room], budget[room]
			if (room != "tests" && room !~ /^crates/) src += all[room]
			else if (room ~ /^crates/) tools += all[room]
		}
		printf form, "src", "", "", "", src, ""
		printf form, "crates", "", "", "", tools, ""
	}'
