[
  locals_without_parens: [defbang: 1],
  inputs: ["{.formatter,mix}.exs", "{bench,examples,lib,mix,test}/**/*.{ex,exs}"]
]
