# Signs files through a pool on a throwaway SoftHSM token, and verifies every signature outside
# the token.
#
#     script/demo [FILE ...]
#
# By default it signs the project's own source files. However many files there are, they are
# signed again and again, by an RSA key and a P-256 key in turn, until there are 2,000 signatures.

Code.require_file("../test/support/soft_hsm.ex", __DIR__)

defmodule Demo do
  alias Pkcs11Pool.Bench.{Progress, Statistics}
  alias Pkcs11Pool.Test.SoftHSM

  @signatures 2_000
  @callers 32
  @sessions 8
  @pin_variable "DEMO_PIN"

  def run(paths) do
    Logger.configure(level: :warning)
    files = read(paths)

    SoftHSM.start!()
    # Also when something below raises, or a caller takes this process down.
    System.at_exit(fn _status -> SoftHSM.stop() end)
    token = SoftHSM.new_token!(label: "demo")
    System.put_env(@pin_variable, token.pin)
    IO.puts("SoftHSM token #{token.label}, serial #{token.serial}")

    # In an application these stand among its own children, before the Endpoint.
    {:ok, supervisor} =
      Supervisor.start_link([pool(Demo.OneSession, 1, token), pool(Demo.HSM, @sessions, token)],
        strategy: :one_for_one
      )

    verified? = sign_and_verify(files)
    Supervisor.stop(supervisor)
    verified?
  end

  defp pool(name, size, token) do
    {Pkcs11Pool,
     name: name,
     module: token.module,
     module_env: token.module_env,
     slot: {:token_label, token.label},
     pool_size: size,
     pin: {:env, @pin_variable}}
  end

  defp sign_and_verify(files) do
    keys = [rsa_key(), ec_key()]
    jobs = jobs(files, keys)
    {for_one, for_pool} = Enum.split(jobs, div(length(jobs), 5))

    IO.puts(
      "#{length(jobs)} signatures of #{length(files)} files, #{@callers} processes calling\n"
    )

    one = measure("one session", Demo.OneSession, for_one)
    pool = measure("#{@sessions} sessions", Demo.HSM, for_pool)

    verified = count_verified(one ++ pool)
    IO.puts("\n#{verified} of #{length(jobs)} signatures verified outside the token")
    verified == length(jobs)
  end

  ## Keys

  defp rsa_key do
    {public, private} =
      Pkcs11Pool.generate_key_pair!(
        Demo.HSM,
        :rsa_pkcs_key_pair_gen,
        [token: true, label: "demo-rsa", id: <<1>>, modulus_bits: 2048, verify: true],
        token: true,
        label: "demo-rsa",
        id: <<1>>,
        private: true,
        sensitive: true,
        sign: true
      )

    key = Pkcs11Pool.public_key!(Demo.HSM, public)

    %{
      name: "RSA-2048",
      sign: fn pool, data -> Pkcs11Pool.sign(pool, private, :sha256_rsa_pkcs, data) end,
      verify: fn data, signature -> :public_key.verify(data, :sha256, signature, key) end
    }
  end

  # SoftHSM signs a digest only, so it is made here.
  defp ec_key do
    {public, private} =
      Pkcs11Pool.generate_key_pair!(
        Demo.HSM,
        :ec_key_pair_gen,
        [token: true, label: "demo-ec", id: <<2>>, ec_params: :secp256r1, verify: true],
        token: true,
        label: "demo-ec",
        id: <<2>>,
        private: true,
        sensitive: true,
        sign: true
      )

    key = Pkcs11Pool.public_key!(Demo.HSM, public)

    %{
      name: "P-256",
      sign: fn pool, data ->
        Pkcs11Pool.sign(pool, private, :ecdsa, :crypto.hash(:sha256, data), signature: :der)
      end,
      verify: fn data, signature -> :public_key.verify(data, :sha256, signature, key) end
    }
  end

  ## Work

  # Every file by every key, and again until there are enough.
  defp jobs(files, keys) do
    each = for file <- files, key <- keys, do: {file, key}
    each |> Stream.cycle() |> Enum.take(max(@signatures, length(each)))
  end

  # The callers take one job after the other, so that all of them are busy until the last.
  defp measure(title, pool, jobs) do
    queue = List.to_tuple(jobs)
    taken = :atomics.new(1, [])
    done = :counters.new(1, [])
    started = System.monotonic_time()

    callers = for _ <- 1..@callers, do: Task.async(fn -> call(pool, queue, taken, done, []) end)
    progress(Progress.new(tuple_size(queue)), title, done, tuple_size(queue))
    results = Enum.flat_map(callers, &Task.await(&1, :infinity))

    seconds = (System.monotonic_time() - started) / System.convert_time_unit(1, :second, :native)
    report(title, results, seconds)
    results
  end

  defp call(pool, queue, taken, done, results) do
    case :atomics.add_get(taken, 1, 1) do
      n when n > tuple_size(queue) ->
        results

      n ->
        {{_path, data}, key} = job = elem(queue, n - 1)
        started = System.monotonic_time()
        answer = key.sign.(pool, data)
        time = System.monotonic_time() - started
        :counters.add(done, 1, 1)
        call(pool, queue, taken, done, [{job, answer, time} | results])
    end
  end

  defp count_verified(results) do
    results
    |> Task.async_stream(fn {job, answer, _time} -> verified?(job, answer) end, ordered: false)
    |> Enum.count(&(&1 == {:ok, true}))
  end

  defp verified?({{path, data}, key}, {:ok, signature}) do
    verified? = key.verify.(data, signature)
    unless verified?, do: IO.puts("#{path}: the signature by the #{key.name} key is wrong")
    verified?
  end

  defp verified?({{path, _data}, key}, {:error, error}) do
    IO.puts("#{path}: not signed by the #{key.name} key: #{Exception.message(error)}")
    false
  end

  ## What the user sees

  defp report(title, results, seconds) do
    times = for {_job, _answer, time} <- results, do: time
    [p50, p99] = Statistics.percentiles(times, [50, 99])

    columns = [
      String.pad_trailing(title, 12),
      String.pad_leading("#{round(length(times) / seconds)} signatures/s", 20),
      String.pad_leading("p50 #{ms(p50)} ms", 16),
      String.pad_leading("p99 #{ms(p99)} ms", 16)
    ]

    Progress.clear()
    IO.puts(columns)
  end

  defp ms(time),
    do: (System.convert_time_unit(time, :native, :microsecond) / 1_000) |> Float.round(1)

  defp progress(progress, title, done, total) do
    count = :counters.get(done, 1)
    progress = Progress.show(progress, count, title)

    if count < total do
      Process.sleep(50)
      progress(progress, title, done, total)
    end
  end

  ## Files

  defp read([]) do
    root = Path.dirname(__DIR__)

    "{lib,native,mix,script,test}/**/*"
    |> Path.expand(root)
    |> Path.wildcard()
    |> Enum.filter(&File.regular?/1)
    |> read()
  end

  defp read(paths) do
    for path <- paths do
      case File.read(path) do
        {:ok, data} -> {Path.relative_to_cwd(path), data}
        {:error, reason} -> Mix.raise("cannot read #{path}: #{:file.format_error(reason)}")
      end
    end
  end
end

unless Demo.run(System.argv()), do: exit({:shutdown, 1})
