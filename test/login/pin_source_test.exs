defmodule Pkcs11Pool.PinSourceTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Pin

  defmodule Secrets do
    def pin(pin), do: {:ok, pin}
    def boom(secret), do: raise("it is #{secret}")
  end

  defp fetch(source) do
    assert {:ok, normalized} = Pin.Source.normalize(source)
    Pin.Source.fetch(normalized)
  end

  defp file(content, mode) do
    path = Path.join(System.tmp_dir!(), "pin-source-#{System.unique_integer([:positive])}")
    File.write!(path, content)
    File.chmod!(path, mode)
    on_exit(fn -> File.rm(path) end)
    path
  end

  test "functions give a binary or {:ok, binary}" do
    assert fetch({Secrets, :pin, ["1234"]}) == {:ok, "1234"}
    assert fetch(fn -> "1234" end) == {:ok, "1234"}
    assert fetch(fn -> {:ok, <<0, 255>>} end) == {:ok, <<0, 255>>}
  end

  test "what goes wrong is told without what it said" do
    for {source, reason} <- [
          {fn -> raise "hunter2" end, :raised},
          {fn -> throw("hunter2") end, :raised},
          {fn -> exit("hunter2") end, :raised},
          {fn -> :erlang.error({:hunter2, "hunter2"}) end, :raised},
          {{Secrets, :boom, ["hunter2"]}, :raised},
          {fn -> {:error, "hunter2"} end, :refused},
          {fn -> {:error, {:cancelled, "hunter2"}} end, :refused},
          {fn -> {:error, ~c"hunter2"} end, :refused},
          {fn -> {:error, nil} end, :refused},
          {fn -> {:error, false} end, :refused},
          {fn -> nil end, :rubbish},
          {fn -> ~c"hunter2" end, :rubbish},
          {fn -> {:ok, ~c"hunter2"} end, :rubbish},
          {fn -> :error end, :rubbish},
          {fn -> "" end, :empty},
          {fn -> {:ok, ""} end, :empty},
          {{Secrets, :pin, ["hunter2", 1]},
           {:undefined_function, "Pkcs11Pool.PinSourceTest.Secrets.pin/2"}},
          {{NoSuch.Module, :pin, []}, {:undefined_function, "NoSuch.Module.pin/0"}}
        ] do
      assert fetch(source) == {:error, reason}
      refute Pin.Source.explain(reason) =~ "hunter2"
    end
  end

  test "an atom that says why there is no PIN is told" do
    assert fetch(fn -> {:error, :cancelled} end) == {:error, {:refused, :cancelled}}

    assert Pin.Source.details({:refused, :cancelled}) ==
             %{cause: "it returned {:error, :cancelled}", source_reason: :cancelled}

    assert Pin.Source.details(:refused) ==
             %{cause: "it returned {:error, reason} (the reason is withheld)"}
  end

  test "the environment gives what is set now" do
    variable = "PKCS11_POOL_PIN_SOURCE_TEST"
    assert fetch({:env, variable}) == {:error, {:env_not_set, variable}}
    System.put_env(variable, "1234\n")
    on_exit(fn -> System.delete_env(variable) end)
    assert fetch({:env, variable}) == {:ok, "1234\n"}
    System.put_env(variable, "")
    assert fetch({:env, variable}) == {:error, :empty}
  end

  test "a file gives its content without one newline at the end" do
    for {content, result} <- [
          {"1234", {:ok, "1234"}},
          {"1234\n", {:ok, "1234"}},
          {"1234\r\n", {:ok, "1234"}},
          {"1234\n\n", {:ok, "1234\n"}},
          {"12\n34", {:ok, "12\n34"}},
          {"1234\r", {:ok, "1234\r"}},
          {" 1234 ", {:ok, " 1234 "}},
          {"\n", {:error, :empty}},
          {"", {:error, :empty}}
        ] do
      assert fetch({:file, file(content, 0o600)}) == result
    end
  end

  test "a file that group or others may read is refused, in a folder like any other" do
    for mode <- [0o400, 0o600, 0o700] do
      assert fetch({:file, file("1234", mode)}) == {:ok, "1234"}
    end

    for mode <- [0o640, 0o604, 0o644, 0o440, 0o444] do
      path = file("1234", mode)
      assert fetch({:file, path}) == {:error, {:file_mode, path}}
      assert Pin.Source.explain({:file_mode, path}) =~ "chmod 600"
      assert Pin.Source.explain({:file_mode, path}) =~ "mode: :any"
      assert fetch({:file, path, mode: :any}) == {:ok, "1234"}
    end
  end

  test "a file that group or others may write is never taken" do
    for mode <- [0o620, 0o602, 0o666, 0o660, 0o422] do
      path = file("1234", mode)
      assert fetch({:file, path}) == {:error, {:file_writable, path}}
      assert fetch({:file, path, mode: :any}) == {:error, {:file_writable, path}}
      assert Pin.Source.explain({:file_writable, path}) =~ "may be written by group or others"
    end
  end

  test "what is judged is what is read, whatever takes its place meanwhile" do
    good = file("good", 0o600)
    evil = file("evil", 0o666)
    link = good <> ".link"
    on_exit(fn -> File.rm(link) end)
    File.ln_s!(good, link)

    flip = fn flip ->
      for target <- [evil, good] do
        File.ln_s!(target, link <> ".next")
        File.rename!(link <> ".next", link)
      end

      flip.(flip)
    end

    flipper = spawn(fn -> flip.(flip) end)
    results = for _ <- 1..3_000, do: fetch({:file, link})
    monitor = Process.monitor(flipper)
    Process.exit(flipper, :kill)
    assert_receive {:DOWN, ^monitor, :process, ^flipper, :killed}
    File.rm(link <> ".next")

    assert Enum.uniq(results) -- [{:ok, "good"}, {:error, {:file_writable, link}}] == []
  end

  test "of a link, what it leads to is what counts" do
    for {mode, result} <- [
          {0o600, fn _link -> {:ok, "1234"} end},
          {0o644, fn link -> {:error, {:file_mode, link}} end},
          {0o602, fn link -> {:error, {:file_writable, link}} end}
        ] do
      target = file("1234", mode)
      link = target <> ".link"
      File.ln_s!(target, link)
      on_exit(fn -> File.rm(link) end)
      assert fetch({:file, link}) == result.(link)
    end

    dangling = file("1234", 0o600)
    File.rm!(dangling)
    File.ln_s!(dangling <> ".gone", dangling)
    assert fetch({:file, dangling}) == {:error, {:file, dangling, :enoent}}
  end

  test "a file that is missing, a folder or huge is told" do
    missing = Path.join(System.tmp_dir!(), "no-such-pin-#{System.unique_integer([:positive])}")
    assert fetch({:file, missing}) == {:error, {:file, missing, :enoent}}
    assert Pin.Source.explain({:file, missing, :enoent}) =~ "no such file"

    folder = System.tmp_dir!()
    assert fetch({:file, folder}) == {:error, {:file, folder, :not_regular}}

    # Nobody writes to it: to open it like a file would wait for ever.
    pipe = Path.join(System.tmp_dir!(), "pin-source-#{System.unique_integer([:positive])}")
    {_, 0} = System.cmd("mkfifo", ["-m", "600", pipe])
    on_exit(fn -> File.rm(pipe) end)
    assert fetch({:file, pipe}) == {:error, {:file, pipe, :not_regular}}
    assert fetch({:file, "/dev/zero"}) == {:error, {:file, "/dev/zero", :not_regular}}

    huge = file(String.duplicate("1", 5_000), 0o600)
    assert fetch({:file, huge}) == {:error, {:file, huge, :too_large}}
  end

  test "what is no source is refused" do
    for bad <- [
          "1234",
          nil,
          :pin,
          {nil, :pin, []},
          {Secrets, :pin},
          {Secrets, "pin", []},
          {Secrets, :pin, [1 | 2]},
          fn _ -> "1234" end,
          {:env, ""},
          {:env, :PIN},
          {:env, "A=B"},
          {:file, ""},
          {:file, "a\0b"},
          {:file, "/pin", []},
          {:file, "/pin", mode: :all},
          {:file, "/pin", mode: :any, mode: :any},
          {:file, "a\0b", mode: :any},
          {:vault, "x"}
        ] do
      assert Pin.Source.normalize(bad) == :error
    end
  end

  test "a source's description leaves its arguments out" do
    assert Pin.Source.describe({:mfa, {Secrets, :pin, ["hunter2"]}}) ==
             "Pkcs11Pool.PinSourceTest.Secrets.pin/1"

    assert Pin.Source.describe({:fun, fn -> "hunter2" end}) == "a function"
    assert Pin.Source.describe({:env, "PIN"}) == "{:env, \"PIN\"}"
  end
end
