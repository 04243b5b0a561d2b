defmodule Mix.Tasks.Pkcs11Pool.Bench do
  @shortdoc "Measures a token, and recommends a pool's size"
  @moduledoc """
  Measures your token, and recommends the size of its pool.

      HSM_PIN=... mix pkcs11_pool.bench --module /usr/lib/vendor/pkcs11.so \\
        --token-label payments --pin-env HSM_PIN --key signing

  Pools of growing size run the same operation, on your own module, slot and key, for many callers at once: how many operations a second, and how
  long a call takes, its wait included (median, 99th percentile, slowest). The sizes take turns in several rounds; each figure is the median of its
  windows. The recommendation is the smallest size after which another step adds less than 5 %, and the executor that `executor: :auto` chooses
  for it.

  The token stays as it is: what needs no key is measured (random bytes, digests), or a key that exists. A key is made only after a yes, or with
  `--make-keys`, and deleted at the end. Ctrl-C (or SIGTERM, or the end of the terminal) ends the run: made keys are deleted, sessions are closed,
  and what was measured so far is printed. Only SIGKILL leaves a made key behind; the next run that makes one says so.

  Your application is not started. The load is real, and so are the sessions, as many as the largest of `--sessions`: on a token that others use
  at the same time, both disturb each other.

  ## The token

    * `--module PATH` - the PKCS#11 library
    * `--module-env NAME=VALUE` - a variable that it finds in its environment; may be given several times
    * `--module-args STRING`, `--module-sha256 DIGEST` - as the pool's options of these names
    * `--token-label LABEL`, `--token-serial SERIAL`, `--slot-id N` or `--uri URI` - the token, by one of these
    * `--pin-env VARIABLE`, `--pin-file PATH` or `--no-pin` - where the PIN comes from. A refused PIN is tried once. There is no `--pin`: everybody on the
      machine can read what stands on the command line

  ## What is measured

    * `--key LABEL|URI` - signatures by this key, such as `signing` or `pkcs11:object=signing;id=%01`. Where several match, a list is shown to choose
      from
    * `--mechanism NAME` - `sha256_rsa_pkcs`, `CKM_ECDSA`, `'{:rsa_pkcs_pss, hash: :sha256}'`; by default one that fits the key. With a
      hash (`sha256`) and without `--key`: digests
    * `--make-keys` - make a key pair (RSA-2048, or P-256 for an ECDSA mechanism) and delete it at the end
    * `--bytes N` - how many bytes are signed or digested, or drawn at random; 32 by default

  Without any of them, a terminal is asked; elsewhere random bytes are measured.

  ## How

    * `--sessions 1,2,4` - the sizes; 1,2,4,8,16,32 by default. Where the token gives fewer sessions, what it gives is the last one
    * `--callers N` - processes that call at once; by default twice the largest size
    * `--seconds S` - how long each size is measured in all, 3 by default; `--rounds N` - in so many windows, 3 by default
    * `--executor auto|dirty_io|threads` - as the pool's option; `auto` by default

  ## The result

    * `--svg FILE` - the plot as a picture
    * `--json FILE` - everything, for programs

  ## Example

  A network HSM that takes 5 ms for a signature, and gives 24 sessions:

      Measured are signatures of 32 bytes by "signing" (ec, id 01) with :ecdsa.
      Callers: 64. Sessions: 1, 2, 4, 8, 16, 24, each for 1.00 s at a time, in 3 rounds. Dirty-IO schedulers: 10.

      sessions  executor     ops/s     gain scatter   p50 ms   p99 ms   max ms
             1  dirty_io       187              1 %      342      344      347
             2  dirty_io       376   +101 %     1 %      171      174      183
             4  dirty_io       752   +100 %     1 %     85.3     88.0     98.2
             8  dirty_io     1,498    +99 %     2 %     42.5     46.3     62.7
            16   threads     2,915    +95 %     8 %     21.4     32.3     77.8
            24   threads     4,300    +48 %     3 %     14.6     21.4      215

      The token gave 24 sessions and no more: larger pools were not measured.

      Recommended: pool_size: 24, executor: :threads

      pool_size   The last step added +48 %, and the token gives no more than 24
                  sessions.
      executor    With 24 sessions on 10 dirty-IO schedulers file I/O would be held
                  up; with native threads it is not. It is what the default, :auto,
                  chooses. For :dirty_io start the VM with +SDio 26 (in vm.args, or
                  ELIXIR_ERL_OPTIONS="+SDio 26").
      timeouts    The tail is long: the slowest call took 215 ms (its wait included),
                  half of them 14.6 ms or less. operation_timeout: 2_000 leaves room
                  for it, and frees the callers of a call that hangs; the default is
                  30_000.

  `gain` is what the step from the line above adds, `scatter` how far the windows of a line lie apart. Fewer digits are to be trusted than are printed:
  measure on the machine that will do the work, when it has nothing else to do.
  """
  use Mix.Task

  alias Pkcs11Pool.Bench

  @requirements ["compile"]

  # What a shell expects of a program that SIGINT has ended.
  @interrupted 130

  @impl Mix.Task
  def run(arguments) do
    # The error is told once, by this task and in its words.
    Logger.configure(level: :none)
    {:ok, _started} = Application.ensure_all_started(:pkcs11_pool)

    with {:ok, options} <- Bench.Options.parse(arguments),
         :ok <- Bench.run(options, IO.ANSI.enabled?()) do
      :ok
    else
      {:error, message} -> Mix.raise(message)
      :interrupted -> exit({:shutdown, @interrupted})
    end
  end
end
