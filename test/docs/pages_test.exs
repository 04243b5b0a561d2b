defmodule Pkcs11Pool.PagesTest do
  # The code blocks of README.md, of the guides and of the notebook are what they say: those of Elixir are run, page by page, in a VM of their own on a
  # throwaway SoftHSM token, as a reader has it: by the environment's SOFTHSM2_CONF and HSM_PIN.
  #
  # A block that cannot run here stands after a line `<!-- not run: why -->`, and is only parsed. One after `<!-- alone -->` runs in a VM that has nothing:
  # no token, no variable, no pool.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Test.SoftHSM

  @moduletag :tmp_dir
  @moduletag timeout: 300_000

  @pages ["README.md" | Path.wildcard("guides/*.md")] ++ Path.wildcard("examples/*.livemd")

  # Pages whose blocks need OTP 27.
  @otp_27 ["guides/tls_and_phoenix.md"]

  # What a page finds, unless it is the pool MyApp.HSM and its keys: the keys alone, or nothing at all.
  @start %{"README.md" => "keys", "examples/tour.livemd" => "nothing"}

  # The keys that the pages name.
  @runner ~S"""
  [page, start | _] = System.argv()
  {:ok, _started} = Application.ensure_all_started(:pkcs11_pool)

  if start != "nothing" do
    hsm =
      {Pkcs11Pool,
       name: MyApp.HSM,
       module: System.fetch_env!("SOFTHSM2_MODULE"),
       slot: {:token_label, "payments"},
       pin: {:env, "HSM_PIN"}}

    {:ok, supervisor} = Supervisor.start_link([hsm], strategy: :one_for_one)
    signing = if start == "keys", do: :p256, else: :rsa2048
    Pkcs11Pool.Testing.generate_keys!(MyApp.HSM, signing: signing, tls: :p256, root: :p256, ec: :p256, archive: :aes256)
    if start == "keys", do: Supervisor.stop(supervisor)
  end

  {blocks, _} = Code.eval_file(page)
  env = Code.env_for_eval(file: page)

  Enum.reduce(blocks, {[], env}, fn {line, code}, {binding, env} ->
    quoted = Code.string_to_quoted!(code, file: page, line: line)
    {_value, binding, env} = Code.eval_quoted_with_env(quoted, binding, env)
    {binding, env}
  end)

  IO.puts("#{length(blocks)} blocks ran")
  """

  for page <- @pages do
    test "#{page}: each block of Elixir is what it says", %{tmp_dir: dir} do
      blocks = unquote(page) |> File.read!() |> blocks()

      for {line, code, :parse} <- blocks do
        assert {:ok, _quoted} = Code.string_to_quoted(code, file: unquote(page), line: line)
      end

      if unquote(page) not in @otp_27 or Pkcs11Pool.OTP.supported?() do
        start = Map.get(@start, unquote(page), "pool")
        run!(dir, unquote(page), start, for({line, code, :run} <- blocks, do: {line, code}))

        for {line, code, :alone} <- blocks,
            do: run!(dir, unquote(page), "nothing", [{line, code}])
      end
    end
  end

  test "a block that is wrong fails, and so does one that is no Elixir", %{tmp_dir: dir} do
    for code <- ["1 = 2", "Pkcs11Pool.no_such_function()"] do
      assert_raise ExUnit.AssertionError, fn -> run!(dir, "README.md", "keys", [{1, code}]) end
    end

    assert [{3, "a\nb\n", :run}, {9, "c\n", :parse}, {17, "e\n", :alone}] =
             blocks("""
             x
             ```elixir
             a
             b
             ```

             <!-- not run: why -->
             ```elixir
             c
             ```
             ```sh
             d
             ```

             <!-- alone -->
             ```elixir
             e
             ```
             """)
  end

  # {line, code, what is done with it}
  defp blocks(text) do
    text
    |> String.split("\n")
    |> Enum.with_index(1)
    |> Enum.reduce({[], nil, :run}, fn
      {"```elixir", number}, {done, nil, how} ->
        {done, {number + 1, [], how}, :run}

      {"```", _number}, {done, {line, code, how}, _} ->
        {[{line, code |> Enum.reverse() |> Enum.map_join(&(&1 <> "\n")), how} | done], nil, :run}

      {text, _number}, {done, {line, code, how}, _} ->
        {done, {line, [text | code], how}, :run}

      {"<!-- not run: " <> _why, _number}, {done, nil, _} ->
        {done, nil, :parse}

      {"<!-- alone -->", _number}, {done, nil, _} ->
        {done, nil, :alone}

      {"", _number}, {done, nil, how} ->
        {done, nil, how}

      {_text, _number}, {done, nil, _} ->
        {done, nil, :run}
    end)
    |> elem(0)
    |> Enum.reverse()
  end

  defp run!(_dir, _page, _start, []), do: :ok

  defp run!(dir, page, start, blocks) do
    file = Path.join(dir, "blocks.exs")
    File.write!(file, inspect(blocks, limit: :infinity, printable_limit: :infinity))
    script = Path.join(dir, "run.exs")
    File.write!(script, @runner)
    ebin = Path.join(:code.lib_dir(:pkcs11_pool), "ebin")

    {output, status} =
      System.cmd(System.find_executable("elixir"), ["-pa", ebin, script, file, start],
        cd: dir,
        env: environment(page, start),
        stderr_to_stdout: true
      )

    assert status == 0, output
    assert output =~ "#{length(blocks)} blocks ran"
  end

  defp environment(_page, "nothing"),
    do: [{"SOFTHSM2_CONF", nil}, {"SOFTHSM2_MODULE", nil}, {"HSM_PIN", nil}]

  defp environment(page, _start) do
    module = SoftHSM.new_module!()
    token = SoftHSM.new_token!(label: "payments", module: module)
    if page == "guides/groups.md", do: SoftHSM.new_token!(label: "payments-2", module: module)
    # The pages name Debian's path. The VM has it to itself.
    path = "/usr/lib/softhsm/libsofthsm2.so"
    real = if File.exists?(path), do: path, else: SoftHSM.module_path()

    [
      {"SOFTHSM2_CONF", token.module_env["SOFTHSM2_CONF"]},
      {"SOFTHSM2_MODULE", real},
      {"HSM_PIN", token.pin}
    ]
  end
end
