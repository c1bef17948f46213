#!/usr/bin/env bash
# Keep one open issue about the weekly run; needs `gh` and its token.
#   tools/issue.sh failed REPORT...    open it, or write the report anew in the one that is open
#   tools/issue.sh passed              close it, if it is open
# RUN_URL is the address of the run. Of each report the last 150 lines are shown.
set -euo pipefail
title="The weekly run failed"
number=$(gh issue list --label weekly --state open --json number --jq '.[0].number // empty')
if [[ $1 == passed ]]; then
    [[ -z $number ]] || gh issue close "$number" --comment "The weekly run passed: ${RUN_URL:?}"
    exit
fi
body=$(mktemp)
trap 'rm -f "$body"' EXIT
echo "The last run: ${RUN_URL:?}" > "$body"
for report in "${@:2}"; do
    [[ -e $report ]] || continue
    # indented, so that nothing in a log is taken for Markdown; an issue holds 65,536 characters
    printf '\n%s\n\n' "$(basename "$report")" >> "$body"
    tail -n 150 "$report" | tail -c 25000 | sed 's/^/    /' >> "$body"
done
if [[ -n $number ]]; then
    gh issue edit "$number" --body-file "$body"
    gh issue comment "$number" --body "It failed again: $RUN_URL"
else
    gh label create weekly --description "The weekly run" --force
    gh issue create --title "$title" --label weekly --body-file "$body"
fi
