"""One verb, one file, one public function; cli/ has the words for each."""
