[
  inputs: ["{.formatter,mix}.exs", "{bench,examples,lib,mix,test}/**/*.{ex,exs}"]
]
