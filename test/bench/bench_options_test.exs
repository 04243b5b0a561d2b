defmodule Pkcs11Pool.BenchOptionsTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Bench.Options

  @module __ENV__.file
  @least ["--module", @module, "--token-label", "payments", "--pin-env", "HSM_PIN"]

  defp parse!(more \\ []) do
    {:ok, options} = Options.parse(@least ++ more)
    options
  end

  defp refused(arguments) do
    assert {:error, message} = Options.parse(arguments)
    message
  end

  test "have defaults for all but the module, the token and the PIN" do
    options = parse!()
    assert options.module == @module
    assert {options.slot, options.slot_option} == {{:token_label, "payments"}, "--token-label"}
    assert {options.pin, options.pin_option} == {{:env, "HSM_PIN"}, "--pin-env"}
    assert options.sessions == [1, 2, 4, 8, 16, 32]
    assert options.callers == 64
    assert %{executor: :auto, rounds: 3, seconds: 3.0, make_keys: false, key: nil} = options
  end

  test "name the token in each of four ways" do
    slot = fn arguments ->
      {:ok, options} = Options.parse(["--module", @module, "--no-pin" | arguments])
      options.slot
    end

    assert slot.(["--token-serial", "8f3a"]) == {:token_serial, "8f3a"}
    assert slot.(["--slot-id", "7"]) == {:slot_id, 7}
    assert slot.(["--uri", "pkcs11:token=payments"]) == "pkcs11:token=payments"
  end

  test "take the key as a label or a URI, and the mechanism as PKCS#11 or Elixir writes it" do
    assert parse!(~w(--key signing)).key == [label: "signing"]
    assert parse!(~w(--key pkcs11:object=a;id=%01)).key == [label: "a", id: <<1>>]

    for text <- ~w(sha256_rsa_pkcs :sha256_rsa_pkcs CKM_SHA256_RSA_PKCS),
        do: assert(parse!(["--mechanism", text]).mechanism == :sha256_rsa_pkcs)

    assert parse!(["--mechanism", "{:rsa_pkcs_pss, hash: :sha256}"]).mechanism ==
             {:rsa_pkcs_pss, hash: :sha256}
  end

  test "take sessions in any order, and variables of the module one by one" do
    options = parse!(~w(--sessions 8,1,2,2 --module-env A=1 --module-env B=x=y --seconds 1))
    assert {options.sessions, options.callers, options.seconds} == {[1, 2, 8], 16, 1.0}
    assert options.module_env == %{"A" => "1", "B" => "x=y"}
  end

  test "refuse a PIN on the command line, and show neither it nor what else may be one" do
    for arguments <- [["--pin", "271828"], ["--pin=271828"], ["-p", "271828"]] do
      message = refused(@least ++ arguments)
      assert message =~ "--pin-env"
      assert message =~ "everybody"
      refute message =~ "271828"
    end

    refute refused(@least ++ ["271828"]) =~ "271828"
    refute refused(@least ++ ["--module-env", "271828"]) =~ "271828"

    refute refused(["--module", @module, "--slot-id", "1", "--pin-env", "HSM_PIN=271828"]) =~
             "271828"

    refute refused(["--module", @module, "--uri", "pkcs11:token=a?pin-value=271828", "--no-pin"]) =~
             "271828"
  end

  test "never run code that is given as a mechanism" do
    assert refused(@least ++ ["--mechanism", "System.halt(1)"]) =~ "--mechanism"
  end

  for {what, arguments, words} <- [
        {"a missing module", ~w(--token-label a --no-pin), ["--module PATH is missing"]},
        {"a module that is no file", ~w(--module /nowhere/x.so --token-label a --no-pin),
         ["--module", "no file /nowhere/x.so"]},
        {"a missing token", ["--module", @module, "--no-pin"], ["--token-label", "--uri"]},
        {"two tokens", @least ++ ~w(--slot-id 1), ["--token-label and --slot-id", "one of them"]},
        {"a missing PIN", ["--module", @module, "--slot-id", "1"],
         ["--pin-env", "--pin-file", "--no-pin"]},
        {"two PINs", @least ++ ~w(--no-pin), ["--pin-env and --no-pin"]},
        {"a slot that is no number", ["--module", @module, "--slot-id", "x", "--no-pin"],
         ["--slot-id wants a whole number"]},
        {"a URI without a token", ["--module", @module, "--uri", "pkcs11:object=a", "--no-pin"],
         ["--uri names no token"]},
        {"a slot below the first", ["--module", @module, "--slot-id", "-1", "--no-pin"],
         ["--slot-id wants a whole number from 0", "-1"]},
        {"a slot beyond the last",
         ["--module", @module, "--slot-id", "18446744073709551616", "--no-pin"],
         ["--slot-id wants a whole number from 0 to 18446744073709551615"]},
        {"an empty label", ["--module", @module, "--token-label", "", "--no-pin"],
         ["--token-label", "label"]},
        {"an empty serial number", ["--module", @module, "--token-serial", "", "--no-pin"],
         ["--token-serial", "serial number"]},
        {"a URI that names an object, too",
         ["--module", @module, "--uri", "pkcs11:token=a;object=x", "--no-pin"],
         ["--uri names an object", "--key"]},
        {"an empty name of a variable", ["--module", @module, "--slot-id", "1", "--pin-env", ""],
         ["--pin-env wants the name of a variable"]},
        {"an empty path of a file", ["--module", @module, "--slot-id", "1", "--pin-file", ""],
         ["--pin-file", "path"]},
        {"a digest that is none", @least ++ ~w(--module-sha256 abc),
         ["--module-sha256 wants 64 hexadecimal digits", "abc"]},
        {"a URI that is none", ["--module", @module, "--uri", "token", "--no-pin"],
         ["--uri", "pkcs11:"]},
        {"an option that is none", @least ++ ~w(--second 3),
         ["--second", "did you mean --seconds?"]},
        {"an option without its value", @least ++ ~w(--key), ["--key wants a value"]},
        {"an option that is given twice", @least ++ ~w(--key a --key b), ["--key", "2 times"]},
        {"sessions that are none", @least ++ ~w(--sessions 1,x), ["--sessions", "1,2,4,8"]},
        {"no sessions", @least ++ ~w(--sessions 0), ["--sessions"]},
        {"fewer callers than sessions", @least ++ ~w(--sessions 1,4 --callers 2),
         ["--callers 2", "4 sessions"]},
        {"no time", @least ++ ~w(--seconds 0), ["--seconds"]},
        {"no rounds", @least ++ ~w(--rounds 0), ["--rounds"]},
        {"no data", @least ++ ~w(--bytes 0), ["--bytes"]},
        {"an executor that is none", @least ++ ~w(--executor fast), ["--executor", "dirty_io"]},
        {"a mechanism that is none", @least ++ ~w(--mechanism sha256_rsa_pks),
         ["--mechanism", "did you mean :sha256_rsa_pkcs?"]},
        {"a mechanism without its parameters", @least ++ ~w(--mechanism rsa_pkcs_pss),
         ["--mechanism", "hash:"]},
        {"a key and none", @least ++ ~w(--key a --make-keys), ["--key and --make-keys"]},
        {"a key's URI that names a token", @least ++ ~w(--key pkcs11:token=a;object=b),
         ["--key", "--uri"]},
        {"a key's URI that names nothing", @least ++ ~w(--key pkcs11:), ["--key", "object="]},
        {"a folder that is none", @least ++ ~w(--svg /nowhere/x.svg), ["--svg", "/nowhere"]},
        {"a folder in a file's place", @least ++ ~w(--json /), ["--json", "folder"]}
      ] do
    test "refuse #{what}, and name the remedy" do
      message = refused(unquote(arguments))
      for word <- unquote(words), do: assert(message =~ word)
    end
  end
end
