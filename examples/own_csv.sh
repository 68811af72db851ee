#!/usr/bin/env bash
# Your own CSV files: from a directory of tables to a table of results.
set -euo pipefail

mkdir -p reviews
for kind in book film; do
  {
    echo "text,verdict"
    for number in $(seq 1 60); do
      echo "a $kind that I enjoyed $number times,good"
      echo "this $kind bored me after $number minutes,bad"
    done
  } > "reviews/${kind}s.csv"
done

scalearn init reviews # it finds the columns and the labels, and writes reviews.yaml
scalearn run reviews.yaml --set training.epochs=1
