defmodule Pkcs11Pool.OtpDependentTest do
  use ExUnit.Case, async: true

  # The list that `script/test-matrix --otp` reads.
  @list "test/otp_dependent.txt"

  test "each test file that is to be run with a newer Elixir and OTP is there" do
    paths = for line <- lines(), not String.contains?(line, "*"), do: line
    assert length(paths) > 5
    assert [] == Enum.reject(paths, &File.regular?/1)
  end

  test "no test file is run twice there" do
    files = Enum.flat_map(lines(), &Path.wildcard/1)
    assert files == Enum.uniq(files)
  end

  defp lines do
    for line <- String.split(File.read!(@list), "\n", trim: true),
        not String.starts_with?(line, "#"),
        do: line
  end
end
