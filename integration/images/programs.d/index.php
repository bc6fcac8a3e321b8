<?php
echo "php answers ", implode(",", array_map(fn ($n) => $n * $n, [1, 2, 3])), "\n";
