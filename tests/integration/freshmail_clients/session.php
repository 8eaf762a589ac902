<?php
// What FreshMail's official PHP client sends and how it reads answers, by PHP's own curl and JSON: its package is in no
// registry that every build can reach. Title-cased header names, `replyTo`, no Content-Type, answers decoded into arrays.
declare(strict_types=1);

function send(string $token, array $mail): array
{
    $call = curl_init('http://' . getenv('HOST') . '/v3/messaging/emails');
    curl_setopt_array($call, [
        CURLOPT_POST => true,
        CURLOPT_POSTFIELDS => json_encode($mail),
        CURLOPT_RETURNTRANSFER => true,
        CURLOPT_HTTPHEADER => [
            'Accept: application/json',
            'Authorization: Bearer ' . $token,
            'Content-Type:',
            'User-Agent: freshmail/php-api-client:1.0;guzzle:7.4;php:' . PHP_VERSION . ';interface:' . PHP_SAPI,
        ],
    ]);
    $body = curl_exec($call);
    $status = curl_getinfo($call, CURLINFO_HTTP_CODE);
    $data = json_decode($body, true);
    if (json_last_error() !== JSON_ERROR_NONE || !is_array($data)) {
        fwrite(STDERR, 'not what the client can decode: ' . $body);
        exit(1);
    }
    return ['success' => $status >= 200 && $status < 300, 'status' => $status, 'data' => $data];
}

function mail_bag(array $recipients, array $changed = []): array
{
    return $changed + [
        'from' => ['email' => 'office@example.com', 'name' => 'Office'],
        'subject' => 'Hello $$first_name$$',
        'recipients' => $recipients,
        'contents' => [['type' => 'text/html', 'body' => '<style>@media all{#a{color:red}}</style>Code: $$code$$']],
        'headers' => [mb_convert_case('x-campaign_name', MB_CASE_TITLE, 'UTF-8') => 'spring'],
        'replyTo' => ['email' => 'replies@example.com', 'name' => 'Replies'],
        'attachments' => [['name' => 'a.txt', 'content' => base64_encode('file')]],
    ];
}

$token = getenv('TOKEN');
$anna = ['email' => 'anna@example.com', 'personalization' => ['first_name' => 'Anna', 'code' => 'A1']];
$ben = ['email' => 'ben@example.com', 'personalization' => [], 'headers' => []];
echo json_encode([
    'sent' => send($token, mail_bag([$anna, $ben])),
    'invalid' => send($token, mail_bag([$anna, ['email' => 'nobody']], ['subject' => null])),
    'steering' => send($token, mail_bag([$anna], ['headers' => ['X-Ses-Source-Arn' => 'arn']])),
    'login' => send('wrong', mail_bag([$anna])),
    // The document's own example, as its text has it.
    'documented' => send($token, json_decode(stream_get_contents(STDIN), true)),
]);
