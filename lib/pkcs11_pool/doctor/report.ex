defmodule Pkcs11Pool.Doctor.Report do
  @moduledoc false
  # What an examination came to, for people and for programs.

  alias Pkcs11Pool.{Error, JSON}

  @width 100
  @indent 14

  ## For people

  @doc "As text."
  @spec text(map) :: iodata
  def text(report) do
    [
      field("Module", [report.path | module(report.module)]),
      sha256(report.sha256),
      slots(report),
      output(report),
      "\n",
      findings(report.findings),
      "\n",
      verdict(report),
      "\n"
    ]
  end

  defp module(nil), do: []
  defp module(:unavailable), do: ["it says nothing of itself (C_GetInfo fails)"]

  defp module(module) do
    [
      "#{named(module.manufacturer)}, #{named(module.description)}, version #{version(module.version)}",
      "PKCS#11 #{version(module.cryptoki_version)}, functions of #{version(module.function_list)}#{interfaces(module.interfaces)}"
    ]
  end

  defp interfaces(:unavailable), do: ""
  defp interfaces([]), do: ""

  defp interfaces(interfaces) do
    names = for one <- interfaces, do: "#{inspect(one.name)} #{version(one.version)}"
    "; interfaces: #{Enum.join(names, ", ")}"
  end

  defp sha256(nil), do: []
  defp sha256(sha256), do: field("SHA-256", [sha256])

  defp slots(%{slots: nil}), do: []

  defp slots(%{slots: slots} = report) do
    for slot <- slots do
      ["\n", field("Slot", ["#{slot.slot_id}: #{slot(slot)}"]), token(slot, report)]
    end
  end

  defp slot(slot), do: "#{named(slot.description)}#{flags(slot.flags)}"

  defp token(%{token: nil}, _report), do: field("Token", ["none"])
  defp token(%{token: :unavailable}, _report), do: field("Token", ["unreadable"])

  defp token(%{token: token, slot_id: id}, report) do
    if :token_initialized in token.flags do
      [
        field("Token", [
          "#{inspect(token.label)}, serial number #{token.serial}, #{named(token.manufacturer)} #{named(token.model)}"
        ]),
        field("Flags", [Enum.join(token.flags, ", ")]),
        field("Sessions", [sessions(token)]),
        field("PIN", ["#{count(token.min_pin_length)} to #{count(token.max_pin_length)} bytes"]),
        mechanisms(report.mechanisms[id]),
        login(report.login, id),
        objects(report.objects[id]),
        signature(report.signatures[id])
      ]
    else
      field("Token", ["uninitialized"])
    end
  end

  defp sessions(token) do
    "#{limit(token.max_session_count)}, #{count(token.session_count)} open " <>
      "(read-write: #{limit(token.max_rw_session_count)}, #{count(token.rw_session_count)} open)"
  end

  defp limit(:infinity), do: "no limit"
  defp limit(:unavailable), do: "unknown limit"
  defp limit(number), do: "at most #{number}"

  defp count(:unavailable), do: "unknown"
  defp count(number), do: to_string(number)

  defp mechanisms(nil), do: []
  defp mechanisms(%Error{}), do: field("Mechanisms", ["unreadable"])

  defp mechanisms(mechanisms) do
    # Those that sign are what most look for.
    for {title, flag} <- [{"Signs by", :sign}, {"Encrypts by", :encrypt}, {"Makes", :make}] do
      names = for one <- mechanisms, flag?(one.flags, flag), do: name(one.mechanism)
      if names == [], do: [], else: field(title, [Enum.join(names, ", ")])
    end ++ [field("Mechanisms", ["#{length(mechanisms)} in all"])]
  end

  defp flag?(flags, :make), do: :generate in flags or :generate_key_pair in flags
  defp flag?(flags, flag), do: flag in flags

  defp name({:vendor, code}), do: "vendor's 0x#{Integer.to_string(code, 16)}"
  defp name(name), do: to_string(name)

  defp login({id, :ok}, id), do: field("Login", ["good"])
  defp login({id, %Error{}}, id), do: field("Login", ["failed"])
  defp login({id, {:not_tried, _reason}}, id), do: field("Login", ["not tried"])
  defp login(_other, _id), do: []

  defp objects(nil), do: []
  defp objects(%Error{}), do: field("Objects", ["unreadable"])
  defp objects({[], _more}), do: field("Objects", ["none to be seen"])

  defp objects({objects, more}) do
    lines = for object <- objects, do: object(object)
    field("Objects", lines ++ if(more, do: ["and more than are shown here"], else: []))
  end

  defp object(object) do
    kind = [object.type, object[:bits] && "#{object.bits} bits", object[:curve]]
    usage = if object[:usage] in [nil, []], do: nil, else: Enum.join(object.usage, "/")

    marks =
      for mark <- [:sensitive, :always_authenticate],
          object[mark] == true,
          do: to_string(mark)

    [class(object.class), label(object.label), id(object.id) | kind ++ [usage | marks]]
    |> Enum.reject(&(&1 in [nil, ""]))
    |> Enum.join(", ")
  end

  defp class(nil), do: "object"
  defp class(class), do: class |> to_string() |> String.replace("_", " ")
  defp label(nil), do: nil
  defp label(label), do: inspect(label)
  defp id(nil), do: nil
  defp id(""), do: "no id"
  defp id(id), do: "id #{Base.encode16(id, case: :lower)}"

  defp signature(%{key: key} = made) do
    how = for {where, :ok} <- [{"on the token", made.on_token}, {"by OTP", made.in_vm}], do: where

    verified = if how == [], do: "not verified", else: "verified #{Enum.join(how, " and ")}"

    field("Signature", [
      "by #{label(key.label)} with #{inspect(made.mechanism)} in #{Float.round(made.sign_ms, 2)} ms, #{verified}"
    ])
  end

  defp signature(_none), do: []

  defp output(%{vm: %{output: output}}) when output != "" do
    lines = output |> String.trim() |> String.split("\n") |> Enum.take(-20)
    ["\nThe module (or its VM) wrote:\n", for(line <- lines, do: ["  ", line, "\n"])]
  end

  defp output(_none), do: []

  defp findings([]), do: []

  defp findings(findings) do
    for finding <- findings do
      title = finding.level |> to_string() |> String.upcase()
      [field(title, [finding.what]), remedy(finding.remedy)]
    end
  end

  defp remedy(nil), do: []
  defp remedy(remedy), do: field("", ["-> " <> remedy])

  defp verdict(%{exit_code: 0, login: {_id, :ok}, signatures: signatures})
       when signatures != %{},
       do: "All that was asked for works."

  defp verdict(%{exit_code: 0}),
    do: "Nothing wrong was found. What needs a login was not looked at."

  defp verdict(%{findings: findings}) do
    case Enum.count(findings, &(&1.level == :error)) do
      1 -> "1 error."
      count -> "#{count} errors."
    end
  end

  defp named(:unavailable), do: "unnamed"
  defp named(""), do: "unnamed"
  defp named(name), do: name

  defp flags([]), do: ""
  defp flags(:unavailable), do: ""
  defp flags(flags), do: " (#{Enum.join(flags, ", ")})"

  defp version(:unavailable), do: "unknown"
  defp version({major, minor}), do: "#{major}.#{minor}"

  defp field(title, [first | rest]) do
    [
      String.pad_trailing(title, @indent),
      fold(first),
      "\n",
      for(line <- rest, do: [String.duplicate(" ", @indent), fold(line), "\n"])
    ]
  end

  # At spaces, so that no line is longer than a terminal's.
  defp fold(text) do
    text
    |> String.split(~r/\s+/, trim: true)
    |> Enum.reduce([""], fn word, [line | lines] ->
      cond do
        line == "" ->
          [word | lines]

        String.length(line) + String.length(word) < @width - @indent ->
          [line <> " " <> word | lines]

        true ->
          [word, line | lines]
      end
    end)
    |> Enum.reverse()
    |> Enum.join("\n" <> String.duplicate(" ", @indent))
  end

  ## For programs

  @doc "As JSON. Its names stay; more may come."
  @spec json(map) :: iodata
  def json(report) do
    JSON.pretty(
      format: 1,
      pkcs11_pool: version_of(:pkcs11_pool),
      otp: to_string(:erlang.system_info(:otp_release)),
      elixir: System.version(),
      path: text_of(report.path),
      sha256: report.sha256,
      module: json_module(report.module),
      slots: for(slot <- report.slots || [], do: json_slot(slot, report)),
      outcome: json_outcome(report.vm),
      step: step(report.vm),
      output: if(report.vm, do: text_of(report.vm.output)),
      findings:
        for(
          one <- report.findings,
          do: [level: one.level, id: one.id, what: one.what, remedy: one.remedy]
        ),
      exit_code: report.exit_code
    )
  end

  defp version_of(application) do
    case :application.get_key(application, :vsn) do
      {:ok, version} -> to_string(version)
      :undefined -> nil
    end
  end

  # How the VM of its own ended.
  defp json_outcome(nil), do: nil
  defp json_outcome(%{outcome: {:signal, number}}), do: "signal #{number}"
  defp json_outcome(%{outcome: {:exit, status}}), do: "exit #{status}"
  defp json_outcome(%{outcome: {:hung, ms}}), do: "hung #{ms} ms"
  defp json_outcome(%{outcome: outcome}), do: outcome

  defp step(nil), do: nil
  defp step(%{outcome: :done}), do: nil
  defp step(%{step: {_name, text}}), do: text

  defp json_module(nil), do: nil
  defp json_module(:unavailable), do: nil

  defp json_module(module) do
    [
      manufacturer: module.manufacturer,
      description: module.description,
      version: version(module.version),
      cryptoki_version: version(module.cryptoki_version),
      function_list: version(module.function_list),
      interfaces:
        if is_list(module.interfaces) do
          for one <- module.interfaces,
              do: [name: one.name, version: version(one.version), flags: one.flags]
        end
    ]
  end

  defp json_slot(slot, report) do
    id = slot.slot_id

    [
      slot_id: id,
      description: known(slot.description),
      manufacturer: known(slot.manufacturer),
      flags: known(slot.flags),
      token: if(is_map(slot.token), do: json_token(slot.token)),
      error: json_error(slot.error),
      mechanisms: json_mechanisms(report.mechanisms[id]),
      objects: json_objects(report.objects[id]),
      more_objects: match?({_objects, true}, report.objects[id]),
      login: json_login(report.login, id),
      signature: json_signature(report.signatures[id])
    ]
  end

  @versions [:hardware_version, :firmware_version]

  defp json_token(token) do
    for {name, value} <- Enum.sort(token) do
      {name,
       cond do
         name in @versions -> version(value)
         is_struct(value, DateTime) -> DateTime.to_iso8601(value)
         true -> known(value)
       end}
    end
  end

  defp json_mechanisms(mechanisms) when is_list(mechanisms) do
    for one <- mechanisms,
        do: [mechanism: name(one.mechanism), min: one.min, max: one.max, flags: one.flags]
  end

  defp json_mechanisms(_none), do: nil

  defp json_objects({objects, _more}), do: Enum.map(objects, &json_key/1)
  defp json_objects(_none), do: nil

  defp json_key(object) do
    for {name, value} <- Enum.sort(object) do
      {name,
       case {name, value} do
         {:id, id} when is_binary(id) -> Base.encode16(id, case: :lower)
         {:label, label} when is_binary(label) -> text_of(label)
         {_name, value} when is_tuple(value) -> inspect(value)
         {_name, value} -> value
       end}
    end
  end

  defp json_login({id, :ok}, id), do: "good"
  defp json_login({id, %Error{reason: reason}}, id), do: reason
  defp json_login({id, {:not_tried, _reason}}, id), do: "not_tried"
  defp json_login(_other, _id), do: nil

  defp json_signature(%{key: key} = made) do
    [
      key: json_key(key),
      mechanism: inspect(made.mechanism),
      ms: made.sign_ms,
      verified_on_token: made.on_token == :ok,
      verified_by_otp: made.in_vm == :ok
    ]
  end

  defp json_signature(_none), do: nil

  defp json_error(nil), do: nil

  defp json_error(error) do
    [
      reason: error.reason,
      code: error.code,
      function: error.function,
      message: Exception.message(error)
    ]
  end

  # `:unavailable` and `:infinity` are no numbers, and stand as they are.
  defp known(:unavailable), do: nil
  defp known(value), do: value

  defp text_of(text), do: if(String.valid?(text), do: text, else: inspect(text))
end
